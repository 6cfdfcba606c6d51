"""Orthanc, with the auto-route of the documentation, stores a study and ends up holding the SR in that study."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

SETTINGS = """
[report]
deliver_untrained = true
[[peers]]
ae_title = "ORTHANC"
network = "127.0.0.0/8"
[[peers]]
ae_title = "E2E"
network = "127.0.0.0/8"
[[destinations]]
name = "orthanc"
kind = "dicom"
address = "{address}"
from_peers = ["ORTHANC"]
verify_after_s = 0.2
"""


def encoded(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def routed(
    orthanc_factory: Callable[..., Any], service: Callable[..., Any], free_port: Any, root: Path
) -> tuple[Any, Any]:
    dicom_port = free_port()
    installation = service(SETTINGS.format(address=f"ORTHANC@127.0.0.1:{dicom_port}"))
    orthanc = orthanc_factory(
        DicomPort=dicom_port,
        LuaScripts=[str(root / "docs" / "orthanc" / "autoroute.lua")],
        DicomModalities={"cxr": ["CXR", "127.0.0.1", installation.port]},
    )
    installation.start("serve")
    return orthanc, installation


def test_stored_study_gets_its_report(
    routed: tuple[Any, Any], synthetic_xray: Callable[..., Dataset], wait_for: Callable[..., Any]
) -> None:
    orthanc, installation = routed
    image = synthetic_xray()
    orthanc.post("/instances", encoded(image))
    (series,) = wait_for(lambda: _reports(orthanc, image), "Orthanc holds the SR", 240)
    installation.wait_until_delivered()
    sr = pydicom.dcmread(io.BytesIO(orthanc.get_bytes(f"/instances/{series['Instances'][0]}/file")))
    assert sr.SOPClassUID.name == "Comprehensive 3D SR Storage"
    assert (sr.PatientID, sr.StudyInstanceUID) == (image.PatientID, image.StudyInstanceUID)
    assert sr.ContentQualification == "RESEARCH"
    assert "UNTRAINED" in sr.SeriesDescription
    # Two objects in the study: our own result did not come back to us as an image.
    assert len(orthanc.find("Instance", StudyInstanceUID=str(image.StudyInstanceUID))) == 2
    (row,) = installation.results()
    assert (row["state"], row["finding"], row["peer_ae_title"]) == ("reported", "covid19", "ORTHANC")


def test_a_study_that_another_peer_sent_before_gets_the_same_report(
    routed: tuple[Any, Any], synthetic_xray: Callable[..., Dataset], wait_for: Callable[..., Any]
) -> None:
    orthanc, installation = routed
    image = synthetic_xray()
    assert installation.send(image) == [0x0000]  # E2E gets no results
    (row,) = installation.wait_until_finished(1)
    assert row["delivered"] is None
    orthanc.post("/instances", encoded(image))
    wait_for(lambda: _reports(orthanc, image), "Orthanc holds the SR", 240)
    installation.wait_until_delivered()
    assert installation.query("SELECT count(*) FROM reports") == [(1,)]
    assert installation.query("SELECT peer_ae_title, brought_at IS NULL FROM resend") == [("ORTHANC", 0)]


def _reports(orthanc: Any, image: Dataset) -> list[Any]:
    found = orthanc.find("Series", StudyInstanceUID=str(image.StudyInstanceUID))
    return [series for series in found if series["MainDicomTags"]["Modality"] == "SR"]


def test_settings_of_the_documentation_are_valid(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from config.settings import load_settings

    settings = load_settings(root / "docs" / "orthanc" / "cxr.toml", environ={})
    orthanc = json.loads((root / "docs" / "orthanc" / "orthanc.json").read_text())
    assert orthanc["DicomModalities"]["cxr"] == [settings.listener.ae_title, "listener", settings.listener.port]
    assert settings.destinations[0].address == f"{orthanc['DicomAet']}@orthanc:{orthanc['DicomPort']}"
    assert settings.peers[0].ae_title == orthanc["DicomAet"]
