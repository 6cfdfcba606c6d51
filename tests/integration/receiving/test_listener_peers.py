"""Real senders: DCMTK, Orthanc, and every file of the shared data."""

from __future__ import annotations

import csv
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import generate_uid

CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
ANSWERS = {0x0000, 0xA700, 0xA900, 0xC210}

Xray = Callable[..., Dataset]


def _run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=dict(os.environ) | environment,
    )


def test_dcmtk_echoes(listening: Any, require_peer: Callable[[str], str]) -> None:
    running = listening()
    assert _run(require_peer("echoscu"), "-aec", "CXR", "127.0.0.1", str(running.port)).returncode == 0
    assert _run(require_peer("echoscu"), "-aec", "OTHER", "127.0.0.1", str(running.port)).returncode != 0


@pytest.mark.parametrize("sender", ["storescu", "dcmsend"])
@pytest.mark.parametrize("no_delay", ["", "1"])
def test_dcmtk_stores(
    listening: Any, require_peer: Callable[[str], str], synthetic_xray: Xray, tmp_path: Path, sender: str, no_delay: str
) -> None:
    running = listening()
    folder = tmp_path / "send"
    folder.mkdir()
    for seed in range(5):
        synthetic_xray(seed=seed, rows=300, columns=300).save_as(folder / f"{seed}.dcm", enforce_file_format=True)
    files = [folder / f"{seed}.dcm" for seed in range(5)]
    done = _run(
        require_peer(sender), "-aec", "CXR", "127.0.0.1", str(running.port), *files, TCP_NODELAY=no_delay or "0"
    )
    assert done.returncode == 0, done.stderr
    assert [image["state"] for image in running.images()] == ["queued"] * 5
    assert len(running.kept()) == 5


def test_dcmtk_sends_compressed_as_it_is(
    listening: Any, require_peer: Callable[[str], str], shared_data: Path, dataset_bytes: Any
) -> None:
    running = listening()
    file = shared_data / "dicom" / "chest_frontal" / "nema_RG1_J2KI.dcm"
    assert _run(require_peer("dcmsend"), "-aec", "CXR", "127.0.0.1", str(running.port), file).returncode == 0
    (image,) = running.images()
    assert (image["state"], image["transfer_syntax_uid"]) == ("queued", "1.2.840.10008.1.2.4.91")
    (kept,) = running.kept().values()
    # DCMTK writes the data set anew; what is the image's own is the compressed pixels.
    assert dcmread(BytesIO(kept)).PixelData == dcmread(file).PixelData


def test_orthanc_sends(listening: Any, orthanc_factory: Any, synthetic_xray: Xray) -> None:
    running = listening()
    orthanc = orthanc_factory(DicomModalities={"cxr": ["CXR", "127.0.0.1", running.port]})
    for seed in range(3):
        buffer = BytesIO()
        synthetic_xray(seed=seed).save_as(buffer, enforce_file_format=True)
        orthanc.post("/instances", buffer.getvalue())
    studies = orthanc.get("/studies")
    assert len(studies) == 3
    sent = orthanc.post("/modalities/cxr/store", {"Resources": studies, "Synchronous": True})
    assert (sent["InstancesCount"], sent["FailedInstancesCount"]) == (3, 0)
    assert [image["state"] for image in running.images()] == ["queued"] * 3
    assert {image["peer_ae_title"] for image in running.images()} == {"ORTHANC"}


def _as_sent(file: Path, dataset_bytes: Any) -> tuple[bytes, str, str, str]:
    """Data set, SOP class, SOP instance and transfer syntax that a peer would send this file with."""
    content = file.read_bytes()
    try:
        header = dcmread(BytesIO(content), stop_before_pixels=True, force=True)
        sop_class = str(header.get("SOPClassUID") or CR)
        instance = str(header.get("SOPInstanceUID") or generate_uid())
        syntax = str(header.file_meta.get("TransferSyntaxUID", IMPLICIT))
        data = dataset_bytes(content) if content[128:132] == b"DICM" else content
    except (InvalidDicomError, AttributeError, ValueError, KeyError, RecursionError, OSError, TypeError):
        return content, CR, generate_uid(), EXPLICIT
    return data, sop_class, instance, syntax


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, about the files, on our own side as SCU
def test_every_shared_file_gets_an_answer_and_ends_nothing(
    listening: Any, scu: Any, shared_data: Path, dataset_bytes: Any, subtests_report: dict[str, int]
) -> None:
    running = listening(accept_all_storage=True, secondary_capture=True)
    files = sorted(path for path in (shared_data / "dicom").rglob("*") if path.is_file())
    assert len(files) >= 60
    for file in files:
        data, sop_class, instance, syntax = _as_sent(file, dataset_bytes)
        with scu(running.port, {sop_class: [syntax], "1.2.840.10008.5.1.4.1.1.1.1": [EXPLICIT]}) as peer:
            if peer.association.rejected_contexts:  # a syntax that is none: the peer can't send it
                subtests_report[file.name] = -1
            else:
                subtests_report[file.name] = peer.store(data, instance=instance, sop_class=sop_class)
            assert peer.echo() == 0x0000, file.name
    assert running.incoming() == []
    assert set(subtests_report.values()) <= ANSWERS | {-1}
    with (shared_data / "dicom.csv").open(newline="", encoding="utf-8") as stream:
        frontal = [Path(row["file"]).name for row in csv.DictReader(stream) if "/chest_frontal/" in row["file"]]
    assert {subtests_report[name] for name in frontal} == {0x0000}


@pytest.fixture
def subtests_report() -> Iterator[dict[str, int]]:
    """Each file's answer; shown when a test fails."""
    answers: dict[str, int] = {}
    yield answers
    for name, status in sorted(answers.items(), key=lambda item: item[1]):
        print(f"0x{status & 0xFFFF:04X} {name}")


def test_four_associations_at_once(
    listening: Any, require_peer: Callable[[str], str], synthetic_xray: Xray, tmp_path: Path
) -> None:
    running = listening()
    sender = require_peer("storescu")
    codes: list[int] = []

    def send(number: int) -> None:
        folder = tmp_path / f"peer{number}"
        folder.mkdir()
        for seed in range(10 * number, 10 * number + 10):
            synthetic_xray(seed=seed).save_as(folder / f"{seed}.dcm", enforce_file_format=True)
        codes.append(
            _run(sender, "+sd", "-aec", "CXR", "127.0.0.1", str(running.port), folder, TCP_NODELAY="1").returncode
        )

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0] * 4
    assert len(running.images()) == len(running.kept()) == 40
