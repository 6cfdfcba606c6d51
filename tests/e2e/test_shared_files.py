"""Every real file at hand, through the whole service: each gives a decision, none ends it, and every frontal chest
radiograph gives an SR that dciodvfy accepts."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom warns of what these files are here for


def readable(path: Path) -> Dataset | None:
    """A file as a sender would hold it; None: nobody could send it."""
    try:
        dataset = pydicom.dcmread(path, force=True)
    except Exception:  # noqa: BLE001 (the files are broken in every way)
        return None
    if "SOPClassUID" not in dataset or "SOPInstanceUID" not in dataset:
        return None
    if getattr(dataset, "file_meta", None) is None or "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def send_each(installation: Any, paths: list[Path]) -> dict[str, int | None]:
    """One association per file, as portable units do; the status, or None where it could not be sent."""
    statuses: dict[str, int | None] = {}
    for path in paths:
        dataset = readable(path)
        if dataset is None:
            continue
        entity = AE(ae_title="E2E")
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        association = entity.associate("127.0.0.1", installation.port, ae_title="CXR")
        if not association.is_established:  # the one context that we proposed is of a private syntax
            assert association.is_aborted, f"{path.name}: the service does not answer any more"
            statuses[path.name] = None
            continue
        try:
            statuses[path.name] = association.send_c_store(dataset).get("Status")
        except (ValueError, AttributeError, KeyError, RecursionError):  # the sender can't encode it, or no context
            statuses[path.name] = None
        finally:
            association.release()
    return statuses


def errors_of(sr: Path, dciodvfy: str) -> list[str]:
    said = subprocess.run([dciodvfy, str(sr)], capture_output=True, text=True, errors="replace", timeout=60)
    return [line for line in (said.stdout + said.stderr).splitlines() if re.match(r"Error", line)]


def frontal_files(shared_data: Path) -> list[Path]:
    with (shared_data / "dicom.csv").open() as table:
        rows = list(csv.DictReader(table))
    return [shared_data / row["file"] for row in rows if "/chest_frontal/" in f"/{row['file']}"]


def reported_files(installation: Any) -> list[Path]:
    spool = installation.folder / "var" / "spool" / "reports"
    return sorted(path for path in spool.rglob("*.dcm"))


def test_every_file_gives_a_decision_and_the_service_goes_on(
    service: Callable[..., Any], shared_data: Path, synthetic_xray: Callable[..., Dataset]
) -> None:
    installation = service(listener="accept_all_storage = true")
    installation.start("serve")
    paths = sorted(path for path in (shared_data / "dicom").rglob("*") if path.is_file())
    statuses = send_each(installation, paths)
    assert len(statuses) > 40
    answered = {name: status for name, status in statuses.items() if status is not None}
    assert set(answered.values()) <= {0x0000, 0xA900, 0xC210}, answered
    assert installation.send(synthetic_xray(seed=99)) == [0x0000]
    rows = installation.wait_until_finished(1, 180)
    # rsna_850819 and its altered copy share a SOP Instance UID: the second is a changed resend with a row of its own.
    accepted = [name for name, status in answered.items() if status == 0x0000]
    assert len({row["image_id"] for row in rows}) >= len(accepted) - 5
    assert all(row["reason"] for row in rows)
    laterals = [row for row in rows if "lateral" in row["reason"]]
    assert all(row["state"] == "not_scored" for row in laterals)


def test_frontal_radiographs_give_valid_reports_under_default_settings_and_a_hip_is_held_until_it_is_released(
    service: Callable[..., Any], shared_data: Path, require_peer: Callable[[str], str]
) -> None:
    dciodvfy = require_peer("dciodvfy")
    installation = service('[view]\npixels = "hold"\n')  # as it is by default; other tests here flag drawn pictures
    installation.start("serve")
    radiographs = {
        path.name: dataset
        for path in frontal_files(shared_data)
        if (dataset := readable(path)) is not None
        and dataset.SOPClassUID in ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1")
    }
    assert radiographs
    statuses = send_each(installation, [path for path in frontal_files(shared_data) if path.name in radiographs])
    assert set(statuses.values()) == {0x0000}
    rows = installation.wait_until_finished(len(radiographs), 180)
    assert [row["state"] for row in rows] == ["reported"] * len(radiographs)
    assert len(reported_files(installation)) == len(radiographs)
    assert {str(path): errors_of(path, dciodvfy) for path in reported_files(installation)} == {
        str(path): [] for path in reported_files(installation)
    }

    hip = pydicom.dcmread(shared_data / "dicom" / "radiograph_other" / "nema_RG2_J2KI.dcm")
    hip.BodyPartExamined, hip.ViewPosition, hip.PatientOrientation = "CHEST", "PA", ["L", "F"]
    assert installation.send(hip) == [0x0000]
    rows = {row["sop_instance_uid"]: row for row in installation.wait_until_finished(len(radiographs) + 1)}
    row = rows[str(hip.SOPInstanceUID)]
    assert (row["state"], row["reason"], row["score"]) == ("held", "pixels_unsure", None)
    assert len(reported_files(installation)) == len(radiographs)
    (held,) = map(json.loads, installation.run("jobs", "list", "--state", "held", "--json").splitlines())
    installation.run("jobs", "release", str(held["id"]))
    rows = {row["sop_instance_uid"]: row for row in installation.wait_until_finished(len(radiographs) + 1)}
    assert rows[str(hip.SOPInstanceUID)]["state"] == "reported"
    shown = installation.run("audit", "show", str(row["image_id"]))
    assert "pixels_unsure" in shown and "view_unsure" in shown  # why it was held; what stands beside its score


def test_every_frontal_file_gives_a_valid_report_when_asked_for(
    service: Callable[..., Any], shared_data: Path, require_peer: Callable[[str], str]
) -> None:
    dciodvfy = require_peer("dciodvfy")
    installation = service('[view]\nunknown = "score"\n', listener="secondary_capture = true")
    installation.start("serve")
    paths = [path for path in frontal_files(shared_data) if readable(path) is not None]
    assert len(paths) >= 6
    assert set(send_each(installation, paths).values()) == {0x0000}
    rows = installation.wait_until_finished(len(paths), 180)
    assert [row["state"] for row in rows] == ["reported"] * len(paths)
    assert {str(path): errors_of(path, dciodvfy) for path in reported_files(installation)} == {
        str(path): [] for path in reported_files(installation)
    }
