"""Killed at each step of the design's table, the service comes to the same result: nothing acknowledged is lost,
and the PACS ends up with one SR per image."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

LISTENER_STEPS = ["object_is_kept", "receipt_is_committed"]
WORKER_STEPS = [
    "job_is_claimed",
    "pixels_are_prepared",
    "batch_is_scored",
    "report_is_built",
    "report_is_written",
    "result_is_committed",
    "report_is_sent",
    "delivery_is_committed",
]

DESTINATION = """
max_attempts = 20
[report]
deliver_untrained = true
[delivery]
retry_first_s = 0.5
lease_s = 5
[[destinations]]
name = "pacs"
kind = "dicom"
address = "{address}"
verify_after_s = 0.2
"""


def reports(orthanc: Any, image: Dataset) -> list[dict[str, Any]]:
    return [
        found
        for found in orthanc.find("Series", StudyInstanceUID=str(image.StudyInstanceUID))
        if found["MainDicomTags"]["Modality"] == "SR"
    ]


def check_outcome(service: Any, orthanc: Any, images: list[Dataset]) -> None:
    service.wait_until_delivered(len(images))
    rows = service.results()
    assert {row["sop_instance_uid"] for row in rows} == {image.SOPInstanceUID for image in images}
    assert [row["state"] for row in rows] == ["reported"] * len(images)
    for image in images:
        (series,) = reports(orthanc, image)
        assert len(series["Instances"]) == 1
    service.run("audit", "verify")
    service.run("db", "check")


def files(installation: Any, area: str) -> list[Path]:
    return [path for path in (installation.folder / "var" / "spool" / area).rglob("*.dcm") if path.is_file()]


@pytest.mark.parametrize("step", LISTENER_STEPS)
def test_listener_killed(
    step: str, service: Callable[..., Any], orthanc: Any, synthetic_xray: Callable[..., Dataset]
) -> None:
    installation = service(DESTINATION.format(address=orthanc.address))
    image = synthetic_xray()
    dying = installation.start("listen", killed_at=step)
    with pytest.raises(AttributeError):  # no answer: pynetdicom returns a status without Status
        installation.send(image)
    assert dying.wait(180) == -signal.SIGKILL

    for orphan in files(installation, "objects"):  # a day goes by, so that it can't be another listener's
        os.utime(orphan, (0, 0))
    installation.start("listen")
    assert installation.send(image) == [0x0000]
    assert len(files(installation, "objects")) == 1
    installation.start("work")
    check_outcome(installation, orthanc, [image])


def test_worker_killed_at_every_step(
    service: Callable[..., Any], orthanc: Any, synthetic_xray: Callable[..., Dataset]
) -> None:
    """Each worker finds what the one before it left, and a new image, and is killed one step later."""
    installation = service(DESTINATION.format(address=orthanc.address))
    images = [synthetic_xray(seed=seed) for seed, _ in enumerate(WORKER_STEPS)]
    installation.start("listen")
    for step, image in zip(WORKER_STEPS, images, strict=True):
        assert installation.send(image) == [0x0000]
        dying = installation.start("work", killed_at=step)
        assert dying.wait(180) == -signal.SIGKILL, step
    installation.start("work")
    check_outcome(installation, orthanc, images)
