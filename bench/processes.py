"""Processes to measure (our listener, DCMTK's storescp, Orthanc) and objects to send to them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

CXR = str(Path(sys.executable).parent / "cxr")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen, timeout_s: float = 60) -> float:
    """Return the seconds until the port accepts connections."""
    start = time.monotonic()
    while time.monotonic() - start < timeout_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return time.monotonic() - start
        if process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode} before it listened")
        time.sleep(0.005)
    raise RuntimeError("did not listen in time")


@contextmanager
def running(command: list[str], folder: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen]:
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **(env or {})})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def our_listener(folder: Path, port: int, **settings: str) -> Iterator[subprocess.Popen]:
    sets = [f"--set={key}={value}" for key, value in settings.items()]
    command = [
        CXR,
        f"--set=data_dir={folder / 'var'}",
        f"--set=listener.port={port}",
        "--set=log.level=error",
        *sets,
        "listen",
    ]
    with running(command, folder) as process:
        wait_for_port(port, process)
        yield process


def wait_until_all_listen(parent: subprocess.Popen, processes: int, timeout_s: float = 60) -> None:
    """Wait until every process of a listener listens on the port."""
    start = time.monotonic()
    while time.monotonic() - start < timeout_s:
        if sum(map(_listens, family(parent.pid)[1:])) == processes:
            return
        time.sleep(0.02)
    raise RuntimeError("not every process listened in time")


def _listens(pid: int) -> bool:
    listening = {
        line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    }
    with suppress(FileNotFoundError):
        links = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
        return bool({f"socket:[{inode}]" for inode in listening} & links)
    return False


@contextmanager
def storescp(
    folder: Path, port: int, env: Mapping[str, str] | None = None, *, fork: bool = False
) -> Iterator[subprocess.Popen]:
    (folder / "in").mkdir()
    options = ["--fork"] if fork else []
    with running(["storescp", *options, "-od", str(folder / "in"), str(port)], folder, env) as process:
        wait_for_port(port, process)
        yield process


@contextmanager
def orthanc(folder: Path, port: int, http_port: int, **options: object) -> Iterator[subprocess.Popen]:
    configuration = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": http_port,
        "DicomPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "StorageCompression": False,
        **options,
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with running(["/usr/sbin/Orthanc", str(folder / "orthanc.json")], folder) as process:
        wait_for_port(port, process)
        wait_for_port(http_port, process)
        yield process


def write_objects(folder: Path, count: int, rows: int, columns: int) -> list[Path]:
    """Write ``count`` distinct frontal DX images of rows x columns x 2 bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 4096, (rows, columns), dtype=np.uint16)
    paths = []
    for number in range(count):
        pixels[0, :4] = [number >> shift & 0xFFF for shift in (0, 12, 24, 36)]
        path = folder / f"{number:04}.dcm"
        image(number, pixels).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def image(number: int, pixels: np.ndarray) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.StudyDate, dataset.StudyTime = "20200401", "101500"
    dataset.AccessionNumber = f"B{number}"
    dataset.Modality, dataset.PresentationIntentType = "DX", "FOR PRESENTATION"
    dataset.PatientName, dataset.PatientID = "Bench", f"B{number}"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.StudyID = "", "", "1"
    dataset.ReferringPhysicianName = dataset.Manufacturer = ""
    dataset.BodyPartExamined, dataset.ViewPosition, dataset.ImageLaterality = "CHEST", "PA", "U"
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.SeriesNumber = dataset.InstanceNumber = "1"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def family(pid: int) -> list[int]:
    """Return the IDs of a process and its children, started by any of its threads."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            children += map(int, (task / "children").read_text().split())
    return [pid, *children]


def processor_s(pids: list[int]) -> float:
    """Return the processor time of processes so far, seconds."""
    ticks = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
