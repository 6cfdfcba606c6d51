"""The whole flow with a marked value in every text element.

The mark is in no log line, exception, metric, file name or error of a command; and, once its patient is
forgotten, in no file at all.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

CXR = Path(sys.executable).parent / "cxr"
MARK = "PHICANARY"
TEXT_VRS = {"LO": 64, "SH": 16, "PN": 64, "ST": 64, "LT": 64, "UT": 64}
# fmt: off
IDENTIFYING = (
    "PatientName", "PatientID", "OtherPatientNames", "OtherPatientIDs", "PatientBirthName", "PatientComments",
    "PatientAddress", "AccessionNumber", "StudyID", "StudyDescription", "SeriesDescription", "ProtocolName",
    "InstitutionName", "InstitutionAddress", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName",
    "PhysiciansOfRecord", "RequestingPhysician", "StationName", "ImageComments", "AdditionalPatientHistory",
    "AdmittingDiagnosesDescription", "EthnicGroup", "Occupation", "RequestedProcedureDescription",
    "RequestedProcedureID", "DeviceSerialNumber", "Manufacturer",
)
# fmt: on


def mark(dataset: Dataset) -> Dataset:
    """Put the mark into every identifying element, in the form that its VR takes or breaks."""
    for number, keyword in enumerate(IDENTIFYING):
        length = TEXT_VRS[dictionary_VR(keyword)]
        setattr(dataset, keyword, f"{MARK}{number}"[:length])
    return dataset


def broken(dataset: Dataset) -> Dataset:
    """Values that third-party libraries like to quote in warnings and errors."""
    dataset.PatientName = f"{MARK} one component, no caret"
    with pytest.warns(UserWarning):
        dataset.PatientBirthDate = MARK
        dataset.PatientSex = f"{MARK} sex"
        dataset.PatientAge = MARK
        dataset.StudyDate = MARK
        dataset.SpecificCharacterSet = MARK
    return dataset


def holding(folder: Path) -> list[Path]:
    """Files that hold the mark."""
    return [path for path in folder.rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()]


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        text: str = response.read().decode()
    return text


def said(folder: Path, *arguments: str) -> str:
    """All that a command prints, however it ends."""
    done = subprocess.run([CXR, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.timeout(900)  # many commands, each a process
@pytest.mark.filterwarnings("ignore")  # pydicom quotes the values that this test plants
def test_no_marked_value_leaves_the_data(
    service: Callable[..., Any],
    orthanc: Any,
    synthetic_xray: Callable[..., Dataset],
    free_port: Callable[[], int],
    tmp_path: Path,
) -> None:
    ports = free_port(), free_port()
    installation = service(
        f'[log]\nlevel = "debug"\n[report]\ndeliver_untrained = true\nsaliency = true\n'
        f"[metrics]\nlistener_port = {ports[0]}\nworker_port = {ports[1]}\n"
        f'[[destinations]]\nname = "pacs"\nkind = "dicom"\naddress = "{orthanc.address}"\nverify_after_s = 0.1\n'
    )
    installation.start("serve")
    sound = mark(synthetic_xray(seed=1))
    odd = mark(synthetic_xray(seed=2))
    damaged = mark(synthetic_xray(seed=3))
    damaged.PixelData = b"\0\0"
    lateral = mark(synthetic_xray(seed=4, ViewPosition="LL"))
    assert installation.send(sound, broken(odd), damaged, lateral) == [0, 0, 0, 0]
    installation.wait_until_finished(4, 180)
    installation.wait_until_delivered(4)

    for port in ports:
        counted = metrics(port)
        assert "cxr_" in counted
        assert MARK not in counted
    installation.run("db", "backup")
    installation.run("audit", "snapshot")
    marked = tmp_path / "marked.dcm"
    damaged.save_as(marked, enforce_file_format=True)
    commands = [
        ["jobs", "list", "--state", "failed"], ["db", "check"], ["audit", "export", "--out", "export.csv"],
        ["audit", "export", "--format", "json"], ["audit", "show", f"{MARK}-UID"], ["audit", "list", "--since", MARK],
        ["audit", "forget", "--patient-id", f"{MARK}1", "--dry-run"],
        ["send", str(marked), "--to", f"CXR@127.0.0.1:{installation.port}", "--calling", "OTHER"],
    ]  # fmt: skip
    for arguments in commands:
        assert MARK not in said(installation.folder, *arguments), arguments
    assert not [path for path in installation.folder.rglob("*") if MARK in path.name]
    assert holding(installation.folder)  # images, reports, database, snapshot, backup

    # The patient is forgotten while the service runs, and it goes on.
    told = installation.run("audit", "forget", "--patient-id", f"{MARK}1", "--yes")
    assert "4 images" in told
    assert told.count("pacs") == 4
    assert installation.send(synthetic_xray(seed=9)) == [0]
    installation.wait_until_finished(5, 180)
    installation.stop()
    assert holding(installation.folder) == []
    assert "all as they were written" in installation.run("audit", "verify")
    assert "\n0 faults" in installation.run("db", "check")

    spoken = installation.log.read_text()
    assert '"reported"' in spoken, "the service logged nothing: the test would prove nothing"
    assert MARK not in spoken
