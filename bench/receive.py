"""Durable receive: our listener beside DCMTK's storescp and Orthanc, the same sender, one run.

The sender is DCMTK's dcmsend, one process per association. Ours and Orthanc sync each object to disk
before they answer; storescp does not.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from processes import free_port, orthanc, our_listener, storescp, write_objects

NODELAY = {"TCP_NODELAY": "1"}


def measure(folder: Path, *, quick: bool) -> str:
    shrink = 10 if quick else 1
    sets = {
        "15 MB": write_objects(folder / "large", 40 // shrink, 2800, 2800),
        "0.15 MB": write_objects(folder / "small", 300 // shrink, 280, 280),
    }
    lines = [
        "## Durable receive",
        "",
        "`python bench/run.py receive` · sender dcmsend · objects/s, in brackets MB/s; last columns: ours as a ratio",
        "",
        "| objects | associations | sender and DCMTK | cxr listen | storescp | Orthanc | ÷ storescp | ÷ Orthanc |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        _line(folder, size, paths, associations, env)
        for size, paths in sets.items()
        for associations in (1, 4)
        for env in ({}, NODELAY)
    ]
    return "\n".join(lines) + "\n"


def _line(folder: Path, size: str, paths: list[Path], associations: int, env: dict[str, str]) -> str:
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    rates = {}
    for receiver in ("ours", "storescp", "orthanc"):
        here = folder / f"{receiver}-{size.replace(' ', '')}-{associations}-{len(env)}"
        here.mkdir()
        rates[receiver] = len(paths) / _seconds(here, receiver, paths, associations, env)
        subprocess.run(["rm", "-rf", str(here)], check=True)
    cells = [f"{rate:.1f} ({rate * megabytes / len(paths):.0f})" for rate in rates.values()]
    ratios = [f"{rates['ours'] / rates[other]:.2f}" for other in ("storescp", "orthanc")]
    how = "TCP_NODELAY=1" if env else "as they come"
    return f"| {len(paths)} × {size} | {associations} | {how} | " + " | ".join(cells + ratios) + " |"


def _seconds(here: Path, receiver: str, paths: list[Path], associations: int, env: dict[str, str]) -> float:
    port = free_port()
    if receiver == "ours":
        with our_listener(here, port):
            return _send(paths, "CXR", port, associations, env)
    if receiver == "storescp":
        with storescp(here, port, env, fork=associations > 1):
            return _send(paths, "STORESCP", port, associations, env)
    with orthanc(here, port, free_port()):
        return _send(paths, "ORTHANC", port, associations, env)


def _send(paths: list[Path], called: str, port: int, associations: int, env: dict[str, str]) -> float:
    """Seconds until every object is acknowledged."""
    shares = [paths[number::associations] for number in range(associations)]
    begun = time.monotonic()
    senders = [
        subprocess.Popen(
            ["dcmsend", "-aec", called, "--no-halt", "127.0.0.1", str(port), *map(str, share)],
            env={**os.environ, **env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for share in shares
    ]
    for sender in senders:
        _, error = sender.communicate(timeout=300)
        if sender.returncode:
            raise RuntimeError(f"dcmsend to {called} ended with {sender.returncode}: {error[-300:]!r}")
    return time.monotonic() - begun
