"""Time from the start until the listener accepts and the worker has scored, at the first start and later ones."""

from __future__ import annotations

import sqlite3
import statistics
import time
from contextlib import closing
from pathlib import Path

from figures import Figure, Part
from processes import CXR, free_port, our_listener, resident_mib, running, wait_for_port, write_objects

LISTENER_S, WORKER_S = 1.5, 10.0


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
    first, again = _worker(folder / "worker")
    return Part(
        "## Start\n\n`python bench/run.py startup` · the worker: from its start until the first image is `reported`; "
        "its first start also expands the model that comes with the project\n\n"
        "| what | median | worst |\n|---|---|---|\n"
        f"| listener accepting after start, s | {median:.2f} | {max(seconds):.2f} |\n"
        f"| its resident memory when accepting, MiB | {statistics.median(memory):.0f} | {max(memory):.0f} |\n"
        f"| worker's first result after its first start, s | {first:.1f} | |\n"
        f"| worker's first result after any other start, s | {again:.1f} | |\n",
        [
            Figure("listener accepting after start", f"≤ {LISTENER_S} s", f"{median:.2f} s", median <= LISTENER_S),
            Figure("worker scoring after its first start", f"≤ {WORKER_S:.0f} s", f"{first:.1f} s", first <= WORKER_S),
            Figure("worker scoring after any other start", f"≤ {WORKER_S:.0f} s", f"{again:.1f} s", again <= WORKER_S),
        ],
    )


def _worker(here: Path) -> list[float]:
    """Return the seconds until the first result at the first and the second start, each with an image in the queue."""
    here.mkdir()
    paths, port, seconds = write_objects(here / "objects", 2, 1024, 1024), free_port(), []
    settings = [f"--set=data_dir={here / 'var'}", "--set=log.level=error", "--set=view.pixels=flag"]  # synthetic films
    for reported_before, path in enumerate(paths):
        with our_listener(here, port), running([CXR, "send", str(path), "--to", f"127.0.0.1:{port}"], here) as sender:
            sender.wait(60)
        start = time.monotonic()
        with running([CXR, *settings, "work"], here) as worker:
            while reported(here / "var") <= reported_before:
                if worker.poll() is not None or time.monotonic() - start > 120:
                    raise RuntimeError("the worker reported nothing")
                time.sleep(0.02)
            seconds.append(time.monotonic() - start)
    return seconds


def reported(data_dir: Path) -> int:
    """Return the number of reported images."""
    address = f"file:{data_dir / 'audit.sqlite'}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=30)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM job WHERE state = 'reported'").fetchone()
    return count
