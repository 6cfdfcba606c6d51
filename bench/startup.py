"""The listener's start and its memory."""

from __future__ import annotations

import statistics
from pathlib import Path

from figures import Figure, Part
from processes import CXR, free_port, resident_mib, running, wait_for_port

START_S = 1.5


def measure(folder: Path, *, quick: bool) -> Part:
    seconds, memory = [], []
    for number in range(2 if quick else 5):
        here = folder / str(number)
        here.mkdir()
        port = free_port()
        command = [
            CXR,
            f"--set=data_dir={here / 'var'}",
            f"--set=listener.port={port}",
            "--set=log.level=error",
            "listen",
        ]
        with running(command, here) as process:
            seconds.append(wait_for_port(port, process))
            memory.append(resident_mib(process.pid))
    median = statistics.median(seconds)
    return Part(
        "## Start of the listener\n\n`python bench/run.py startup`\n\n"
        "| what | median | worst |\n|---|---|---|\n"
        f"| accepting after start, s | {median:.2f} | {max(seconds):.2f} |\n"
        f"| resident memory when accepting, MiB | {statistics.median(memory):.0f} | {max(memory):.0f} |\n",
        [Figure("listener accepting after start", f"≤ {START_S} s", f"{median:.2f} s", median <= START_S)],
    )
