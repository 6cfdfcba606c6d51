"""Throughput of the worker over a backlog of mixed objects, against the sum of its parts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from figures import Figure, Part
from processes import CXR, family, free_port, our_listener, processor_s, running
from pydicom.uid import ExplicitVRLittleEndian, JPEGLosslessSV1, RLELossless, generate_uid
from radiograph import compressed, uncompressed
from startup import reported

OBJECTS = 500
SYNTAXES = (ExplicitVRLittleEndian, JPEGLosslessSV1, RLELossless)
SHARE = 0.85
_AT_ONCE = 30


def measure(folder: Path, *, quick: bool, count: int | None = None) -> Part:
    count = count or (40 if quick else OBJECTS)
    here = folder / "service"
    here.mkdir(parents=True)
    port = free_port()
    with our_listener(here, port):
        send_backlog(folder / "objects", count, port)
    parts = _core_seconds(folder / "parts", [folder / "objects" / f"{number}.dcm" for number in range(len(SYNTAXES))])
    settings = [f"--set=data_dir={here / 'var'}", "--set=log.level=error", "--set=view.pixels=flag"]  # synthetic films
    with running([CXR, *settings, "work", "--profile"], here) as worker:
        while (first := reported(here / "var")) == 0 and worker.poll() is None:
            time.sleep(0.02)
        started, before = time.monotonic(), processor_s(family(worker.pid))
        while reported(here / "var") < count and worker.poll() is None:
            time.sleep(0.1)
        seconds = time.monotonic() - started
        used = processor_s(family(worker.pid)) - before
    if worker.returncode:
        raise RuntimeError(f"the worker ended with {worker.returncode}")
    rate, cores = (count - first) / seconds, len(os.sched_getaffinity(0))
    ceiling = cores / sum(parts.values())
    return Part(
        f"## A backlog of {count} objects\n\n"
        "`python bench/run.py throughput` · 8 megapixels, a third each uncompressed, JPEG Lossless and RLE; the model "
        "that comes with the project, on the CPU; results stay in the database\n\n| what | |\n|---|---|\n"
        f"| images/s | {rate:.2f} |\n| core-seconds per image, each part alone | "
        + ", ".join(f"{name} {spent:.3f}" for name, spent in parts.items())
        + f" |\n| their sum | {sum(parts.values()):.3f} |\n| cores ÷ their sum, images/s | {ceiling:.2f} |\n"
        f"| core-seconds per image of the whole worker in this run | {used / (count - first):.3f} |\n"
        f"| cores that it kept busy | {used / seconds:.2f} of {cores} |\n\n"
        f"`cxr work --profile` of that run:\n\n```\n{_profile(here / 'log.txt')}\n```\n",
        [
            Figure(
                f"worker throughput, backlog of {count} mixed objects",
                f"≥ {SHARE} × cores ÷ sum of its parts",
                f"{rate / ceiling:.2f} × ({rate:.1f} images/s)",
                rate >= SHARE * ceiling,
            ),
        ],
    )


def send_backlog(folder: Path, count: int, port: int) -> None:
    """Fill the queue with distinct objects, sent in batches of a few files."""
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
    """Return the core-seconds of each processing step of an image, measured alone in a child process."""
    process = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("throughput_parts.py")), str(folder), *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(process.stdout.splitlines()[-1])


def _profile(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    start = max((number for number, line in enumerate(lines) if line.startswith("stage ")), default=len(lines))
    return "\n".join(lines[start:])
