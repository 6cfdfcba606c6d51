"""A backlog of mixed objects: how fast the worker is through it, against the sum of its parts; and its memory."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
from figures import Figure, Part
from processes import CXR, free_port, our_listener, resident_mib, running
from pydicom.uid import ExplicitVRLittleEndian, JPEGLosslessSV1, RLELossless, generate_uid
from radiograph import compressed, uncompressed

OBJECTS = 500
SYNTAXES = (ExplicitVRLittleEndian, JPEGLosslessSV1, RLELossless)
SHARE = 0.85
START_S = 10.0
FLAT_MIB = 40.0  # per 1,000 images: what an allocator may take for a while
_AT_ONCE = 30


def measure(folder: Path, *, quick: bool, count: int | None = None) -> Part:
    count = count or (40 if quick else OBJECTS)
    here = folder / "service"
    here.mkdir(parents=True)
    port = free_port()
    with our_listener(here, port):
        _send(folder / "objects", count, port)
    parts = _core_seconds(folder / "parts", [folder / "objects" / f"{number}.dcm" for number in range(len(SYNTAXES))])
    settings = [f"--set=data_dir={here / 'var'}", "--set=log.level=error"]
    memory: list[tuple[int, float]] = []
    begun = time.monotonic()
    with running([CXR, *settings, "work"], here) as worker:
        while (done := _reported(here)) == 0:
            time.sleep(0.02)
        first, started = done, time.monotonic()
        while (done := _reported(here)) < count:
            memory.append((done, _family_mib(worker.pid)))
            time.sleep(0.25)
        seconds = time.monotonic() - started
    rate = (count - first) / seconds
    cores = len(os.sched_getaffinity(0))
    ceiling = cores / sum(parts.values())
    slope = _slope(memory[len(memory) // 4 :]) * 1000
    until_first = started - begun
    return Part(
        f"## A backlog of {count} objects\n\n"
        "`python bench/run.py throughput` · 8 megapixels, a third each uncompressed, JPEG Lossless and RLE; ResNet50 "
        "at 224 on the CPU; results stay in the database\n\n| what | |\n|---|---|\n"
        f"| images/s | {rate:.2f} |\n| core-seconds per image, each part alone | "
        + ", ".join(f"{name} {spent:.3f}" for name, spent in parts.items())
        + f" |\n| cores ÷ their sum, images/s | {ceiling:.2f} |\n| first result after start, s | {until_first:.1f} |\n"
        f"| resident memory of worker and its processes, MiB | {memory[-1][1]:.0f} |\n"
        f"| its slope, MiB per 1,000 images | {slope:+.1f} |\n",
        [
            Figure(
                "worker throughput",
                f"≥ {SHARE} × cores ÷ sum of its parts",
                f"{rate / ceiling:.2f} ×",
                rate >= SHARE * ceiling,
            ),
            Figure("worker scoring after start", f"≤ {START_S:.0f} s", f"{until_first:.1f} s", until_first <= START_S),
            Figure(f"memory over {count} images", "flat", f"{slope:+.1f} MiB per 1,000", abs(slope) <= FLAT_MIB),
        ],
    )


def _send(folder: Path, count: int, port: int) -> None:
    """Fill the queue with distinct objects, a few files at a time."""
    folder.mkdir(parents=True)
    plain = uncompressed()
    kinds = [plain, *(compressed(plain, syntax) for syntax in SYNTAXES[1:])]
    for number, kind in enumerate(kinds):
        kind.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    for first in range(0, count, _AT_ONCE):
        batch = folder / "batch"
        batch.mkdir()
        for number in range(first, min(first + _AT_ONCE, count)):
            kind = kinds[number % len(kinds)]
            kind.SOPInstanceUID = kind.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            kind.StudyInstanceUID, kind.SeriesInstanceUID = generate_uid(), generate_uid()
            kind.save_as(batch / f"{number}.dcm", enforce_file_format=True)
        subprocess.run(
            ["dcmsend", "-aec", "CXR", "--scan-directories", "--recurse", "-dn", "127.0.0.1", str(port), str(batch)],
            check=True,
            capture_output=True,
        )
        shutil.rmtree(batch)


def _core_seconds(folder: Path, paths: list[Path]) -> dict[str, float]:
    """What each part of an image's way costs alone, in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("throughput_parts.py")), str(folder), *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _reported(here: Path) -> int:
    address = f"file:{here / 'var' / 'audit.sqlite'}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=30)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM job WHERE state = 'reported'").fetchone()
    return count


def _family_mib(pid: int) -> float:
    """Resident memory of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0.0
    for each in (pid, *map(int, children)):
        with suppress(FileNotFoundError, StopIteration):  # it has just ended
            total += resident_mib(each)
    return total


def _slope(points: list[tuple[int, float]]) -> float:
    """MiB per image, by least squares."""
    if len({done for done, _ in points}) < 2:
        return 0.0
    return float(np.polyfit([done for done, _ in points], [mib for _, mib in points], 1)[0])
