"""Memory of the worker over many images: small objects and a small network, everything else as in service.

Rows, sessions, reports, futures and caches could grow with the number of images, whatever their size. The target is
for 10,000 images, ``memory --count 10000``; the default is fewer, to limit the time of a whole run.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from figures import Figure, Part
from processes import CXR, family, free_port, our_listener, resident_mib, running, write_objects
from startup import reported

from cxr.pixels.recipe import PixelRecipe
from inference.registry import TRAINED
from training.packaging.untrained import build_untrained

COUNT = 1000
FLAT_MIB = 5.0  # per 1,000 images
WARM = 0.5  # share of the images until allocators and caches are filled


def measure(folder: Path, *, quick: bool, count: int | None = None) -> Part:
    count = count or (200 if quick else COUNT)
    here, port = folder / "service", free_port()
    here.mkdir(parents=True)
    paths = write_objects(folder / "objects", count, 96, 96)
    with our_listener(here, port):
        subprocess.run(
            ["dcmsend", "-aec", "CXR", "--scan-directories", "-dn", "127.0.0.1", str(port), str(paths[0].parent)],
            check=True,
            capture_output=True,
            env={"TCP_NODELAY": "1", "PATH": "/usr/bin:/bin"},
        )
    settings = [f"--set=data_dir={here / 'var'}", "--set=log.level=error", "--set=view.pixels=off"]
    _promote(folder, settings, here)
    points: list[tuple[int, float]] = []
    with running([CXR, *settings, "work"], here) as worker:
        while (done := reported(here / "var")) < count:
            if worker.poll() is not None:
                raise RuntimeError(f"the worker ended with {worker.returncode}")
            if done:
                points.append((done, family_mib(worker.pid)))
            time.sleep(0.2)
    slope, error = slope_of([point for point in points if point[0] >= WARM * count])
    return Part(
        f"## Memory over {count:,} images\n\n`python bench/run.py memory --count {count}` · 96 × 96 pixels, a small "
        "network; worker and its processes, resident\n\n| memory | |\n|---|---|\n"
        f"| with the first results, MiB | {points[0][1]:.0f} |\n| with the last, MiB | {points[-1][1]:.0f} |\n"
        f"| slope after {WARM:.0%} of the images, MiB per 1,000 images, ± two standard errors | "
        f"{slope:+.2f} ± {2 * error:.2f} ({len(points)} points) |\n",
        [
            Figure(
                f"worker's memory over {count:,} images",
                f"flat: ≤ {FLAT_MIB:.0f} MiB per 1,000",
                f"{slope:+.2f} ± {2 * error:.2f} MiB per 1,000",
                slope <= FLAT_MIB,
            )
        ],
    )


def _promote(folder: Path, settings: list[str], here: Path) -> None:
    """Put a small network into service before the worker starts."""
    package = build_untrained(folder / "tiny", now=datetime.now(UTC), architecture="tiny", recipe=PixelRecipe(size=64))
    command = [CXR, *settings, "model", "promote", str(package.folder), "--reason", "bench", "--accept-gate", TRAINED]
    subprocess.run(command, cwd=here, check=True, capture_output=True)


def family_mib(pid: int) -> float:
    """Return the resident memory of a process and its children, MiB."""
    total = 0.0
    for each in family(pid):
        with suppress(FileNotFoundError, ProcessLookupError, StopIteration):  # the process has just ended
            total += resident_mib(each)
    return total


def slope_of(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Return the slope in MiB per 1,000 images by least squares, and its standard error."""
    images, mib = (np.array(values, dtype=float) for values in zip(*points, strict=True))
    if len(points) < 3 or np.ptp(images) == 0:
        return 0.0, float("nan")
    (slope, _), covariance = np.polyfit(images, mib, 1, cov=True)
    return float(slope) * 1000, float(covariance[0, 0] ** 0.5) * 1000
