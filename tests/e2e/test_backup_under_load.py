"""A backup that was taken while objects came in is a service again: nothing that it holds is lost or done twice."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

IMAGES = 40
SETTINGS = """
[audit]
identifiers = "pseudonym"
[report]
deliver_untrained = true
[delivery]
retry_first_s = 0.5
lease_s = 40
[[destinations]]
name = "pacs"
kind = "dicom"
address = "{address}"
verify = "find"
verify_after_s = 0.1
timeout_s = 5
"""


def restore(backup: Path, old: Path, new: Path) -> None:
    """As docs/operations.md says; the heads are newer than the backup and stay behind."""
    for folder in ("var", "var.keys"):
        (new / folder).mkdir(mode=0o700, exist_ok=True)
    shutil.copy(backup, new / "var" / "audit.sqlite")
    for name in ("audit.key", "pseudonym.key"):
        shutil.copy(old / "var.keys" / name, new / "var.keys" / name)


@pytest.mark.timeout(900)  # two services, one after the other
def test_a_backup_under_load_restores_to_a_working_service(
    service: Callable[..., Any],
    orthanc: Any,
    synthetic_xray: Callable[..., Dataset],
    tmp_path: Path,
    wait_for: Callable[..., Any],
) -> None:
    settings = SETTINGS.format(address=orthanc.address)
    first = service(settings)
    first.start("serve")
    assert first.send(synthetic_xray(seed=0, PatientID="REALID0")) == [0]
    first.wait_until_finished(1)  # the worker is at work as well
    sent, is_enough, statuses = threading.Semaphore(0), threading.Event(), list[int]()

    def send_all() -> None:
        for seed in range(1, IMAGES):
            statuses.extend(first.send(synthetic_xray(seed=seed, PatientID=f"REALID{seed}")))
            sent.release()
            if seed >= IMAGES // 2:
                is_enough.wait(0.5)  # goes on, slower, until the copies are made

    sender = threading.Thread(target=send_all)
    sender.start()
    for _ in range(IMAGES // 3):
        assert sent.acquire(timeout=180)
    backup = Path(first.run("db", "backup", "--to", str(tmp_path / "copies")).strip())
    subprocess.run(["cp", "-a", first.folder / "var" / "spool", first.folder / "var" / "spool.id", tmp_path / "copies"])
    is_enough.set()
    sender.join(240)
    assert statuses == [0] * (IMAGES - 1)
    running = first.processes.pop("serve")
    running.kill()  # the machine is gone
    running.wait(120)
    wait_for(lambda: not first._accepts(), "its listener is gone, too", 180)

    second = service(settings)
    restore(tmp_path / "copies" / backup.name, first.folder, second.folder)
    for name in ("spool", "spool.id"):
        shutil.move(tmp_path / "copies" / name, second.folder / "var" / name)
    (held,) = second.query("SELECT count(*), sum(state IN ('queued', 'scoring')) FROM images")
    assert IMAGES // 3 <= held[0] < IMAGES, "the backup was taken while objects came in"
    second.start("serve")
    assert (
        second.send(*(synthetic_xray(seed=seed, PatientID=f"REALID{seed}") for seed in range(IMAGES))) == [0] * IMAGES
    )
    second.wait_until_finished(IMAGES)
    assert second.query("SELECT state, count(*) FROM images GROUP BY state") == [("reported", IMAGES)]
    assert second.query("SELECT count(*) FROM events WHERE kind = 'resent'") == [(held[0],)]
    second.wait_until_delivered(IMAGES)
    assert "all as they were written" in second.run("audit", "verify")
    assert "\n0 faults" in second.run("db", "check")
    second.stop()

    # One report for each image at the PACS, with the patient's real name on it; and no real ID in the database.
    reports = orthanc.find("Instance", Modality="SR")
    patients = [orthanc.get(f"/instances/{each['ID']}/simplified-tags")["PatientID"] for each in reports]
    assert sorted(patients) == sorted(f"REALID{seed}" for seed in range(IMAGES))
    assert b"REALID" not in (second.folder / "var" / "audit.sqlite").read_bytes()
    assert second.query("SELECT count(DISTINCT patient_id) FROM images") == [(IMAGES,)]
