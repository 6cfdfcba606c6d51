"""Small reports to a PACS over one association: how fast we send them, beside DCMTK's dcmsend to the same peer."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from figures import Part
from processes import CXR, free_port, orthanc, storescp, write_objects

COUNT = 100
SIDE = 100  # 20 KB, about a report's size
AHEAD = {"TCP_NODELAY": "1"}


def measure(folder: Path, *, quick: bool) -> Part:
    paths = write_objects(folder / "objects", 1 + (30 if quick else COUNT), SIDE, SIDE)
    port, lines = free_port(), []
    senders: dict[str, tuple[list[str], Mapping[str, str]]] = {
        "cxr send": ([CXR, "send", "--to", f"127.0.0.1:{port}"], {}),
        "dcmsend, as it comes": (["dcmsend", "-aec", "ANY-SCP", "127.0.0.1", str(port)], {}),
        "dcmsend, TCP_NODELAY=1": (["dcmsend", "-aec", "ANY-SCP", "127.0.0.1", str(port)], AHEAD),
    }
    for receiver in ("storescp", "Orthanc"):
        rates = []
        for number, (command, env) in enumerate(senders.values()):
            here = folder / f"{receiver}{number}"
            here.mkdir()
            with _receiver(receiver, here, port):
                rates.append(_rate(command, paths, env))
        cells = " | ".join(f"{rate:.1f} ({rates[0] / rate:.2f})" for rate in rates[1:])
        lines.append(f"| {receiver} | {rates[0]:.1f} | {cells} |")
    return Part(
        f"## Delivery\n\n`python bench/run.py deliver` · {len(paths) - 1} objects of {2 * SIDE * SIDE // 1000} KB, one "
        "association, the sender's start not counted; objects/s, in brackets ours as a ratio; receivers as they come"
        f"\n\n| to | {' | '.join(senders)} |\n|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )


def _receiver(name: str, folder: Path, port: int) -> AbstractContextManager[subprocess.Popen]:
    return storescp(folder, port) if name == "storescp" else orthanc(folder, port, free_port())


def _rate(command: list[str], paths: list[Path], env: Mapping[str, str]) -> float:
    """Objects a second, of all but the first, which is sent alone to know what starting takes."""
    start, whole = (_seconds([*command, *map(str, each)], env) for each in (paths[:1], paths))
    return (len(paths) - 1) / (whole - start)


def _seconds(command: list[str], env: Mapping[str, str]) -> float:
    begun = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **env})
    return time.monotonic() - begun
