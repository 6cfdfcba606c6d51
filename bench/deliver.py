"""Sending small reports to a PACS over one association: `cxr send` and DCMTK's dcmsend to the same peer."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from figures import Part
from processes import CXR, free_port, orthanc, storescp, write_objects

SIDE = 100  # 20 KB, about a report's size
NODELAY = {"TCP_NODELAY": "1"}
SENDERS: dict[
    str, tuple[int, Mapping[str, str]]
] = {  # objects: a few seconds of sending, long against the start of the process
    "cxr send": (800, {}),
    "dcmsend, default": (60, {}),
    "dcmsend, TCP_NODELAY=1": (120, NODELAY),
}


def measure(folder: Path, *, quick: bool) -> Part:
    share = 10 if quick else 1
    paths = write_objects(folder / "objects", 1 + max(count for count, _ in SENDERS.values()), SIDE, SIDE)
    port, lines = free_port(), []
    for receiver in ("storescp", "Orthanc"):
        rates = []
        for name, (count, env) in SENDERS.items():
            here = folder / f"{receiver} {name}"
            here.mkdir()
            with _receiver(receiver, here, port):
                rates.append(_rate(name, paths[: 1 + count // share], port, env))
        cells = " | ".join(f"{rate:.1f} ({rates[0] / rate:.2f})" for rate in rates[1:])
        lines.append(f"| {receiver} | {rates[0]:.1f} | {cells} |")
    counts = ", ".join(str(count // share) for count, _ in SENDERS.values())
    return Part(
        f"## Delivery\n\n`python bench/run.py deliver` · {counts} objects of {2 * SIDE * SIDE // 1000} KB, one "
        "association, start of the sender not counted; objects/s, in brackets the ratio of `cxr send`"
        f"\n\n| to | {' | '.join(SENDERS)} |\n|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )


def _receiver(name: str, folder: Path, port: int) -> AbstractContextManager[subprocess.Popen]:
    return storescp(folder, port) if name == "storescp" else orthanc(folder, port, free_port())


def _rate(sender: str, paths: list[Path], port: int, env: Mapping[str, str]) -> float:
    """Return objects per second, without the first one, which is sent alone to measure the start."""
    command = [CXR, "send", "--to", f"127.0.0.1:{port}"]
    if sender != "cxr send":
        command = ["dcmsend", "-aec", "ANY-SCP", "127.0.0.1", str(port)]
    starts = [_seconds([*command, str(paths[0])], env) for _ in range(3)]
    return (len(paths) - 1) / (_seconds([*command, *map(str, paths)], env) - statistics.median(starts))


def _seconds(command: list[str], env: Mapping[str, str]) -> float:
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **env})
    return time.monotonic() - start
