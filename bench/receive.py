"""Durable receive: our listener beside DCMTK's storescp and Orthanc, the same sender, one run.

The sender is DCMTK's dcmsend, one process per association. Ours and Orthanc sync each object to disk
before they answer; storescp does not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from figures import Figure, Part
from processes import free_port, orthanc, our_listener, storescp, wait_until_all_listen, write_objects

NODELAY = {"TCP_NODELAY": "1"}
MEMORY_MIB = 400.0


@dataclass(frozen=True)
class Case:
    """One line: what is sent, how, and to how many processes of ours."""

    size: str
    paths: list[Path]
    associations: int
    processes: int
    env: dict[str, str]


def measure(folder: Path, *, quick: bool) -> Part:
    shrink = 10 if quick else 1
    sets = {
        "15 MB": write_objects(folder / "large", 40 // shrink, 2800, 2800),
        "0.15 MB": write_objects(folder / "small", 300 // shrink, 280, 280),
    }
    cores = len(os.sched_getaffinity(0))
    lines, figures = [], []
    for size, paths in sets.items():
        for associations, processes in ((1, 1), (4, 1), (4, cores), (16, 1)):
            for env in ({}, NODELAY):
                case = Case(size, paths, associations, processes, env)
                rates = _rates(folder, case)
                lines.append(_line(case, rates))
                figures += _figures(case, rates)
    memory = _memory_mib(folder, quick=quick)
    figures.append(
        Figure(
            "listener memory, 16 associations × 60 MB",
            f"< {MEMORY_MIB:.0f} MiB",
            f"{memory:.0f} MiB",
            memory < MEMORY_MIB,
        )
    )
    head = [
        "## Durable receive",
        "",
        "`python bench/run.py receive` · sender dcmsend · objects/s, in brackets MB/s; last columns: ours as a ratio",
        "",
        "| objects | associations | our processes | sender and DCMTK | cxr listen | storescp | Orthanc | ÷ storescp "
        "| ÷ Orthanc |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    tail = ["", f"Peak resident memory of one listening process, 16 associations × 60 MB at once: {memory:.0f} MiB."]
    return Part("\n".join([*head, *lines, *tail]) + "\n", figures)


def _rates(folder: Path, case: Case) -> dict[str, float]:
    rates = {}
    for receiver in ("ours", "storescp", "orthanc"):
        here = folder / "receiver"
        here.mkdir()
        rates[receiver] = len(case.paths) / _seconds(here, receiver, case)
        shutil.rmtree(here)
    return rates


def _line(case: Case, rates: dict[str, float]) -> str:
    megabytes = sum(path.stat().st_size for path in case.paths) / 1e6
    cells = [f"{rate:.1f} ({rate * megabytes / len(case.paths):.0f})" for rate in rates.values()]
    ratios = [f"{rates['ours'] / rates[other]:.2f}" for other in ("storescp", "orthanc")]
    how = "TCP_NODELAY=1" if case.env else "as they come"
    return (
        f"| {len(case.paths)} × {case.size} | {case.associations} | {case.processes} | {how} | "
        + " | ".join(cells + ratios)
        + " |"
    )


def _figures(case: Case, rates: dict[str, float]) -> list[Figure]:
    """Its lines of the table of targets, which are for senders as they come."""
    what = f"durable receive, {case.associations} association{'s' if case.associations > 1 else ''}, {case.size}"
    to_storescp, to_orthanc = rates["ours"] / rates["storescp"], rates["ours"] / rates["orthanc"]
    if case.env:
        return []
    if case.associations == 1:
        return [
            Figure(what, "≥ 1.2 × storescp", f"{to_storescp:.2f} ×", to_storescp >= 1.2),
            Figure(what, "≥ 2 × Orthanc", f"{to_orthanc:.2f} ×", to_orthanc >= 2),
        ]
    if (case.associations, case.size) == (4, "15 MB") and case.processes > 1:
        return [
            Figure(
                f"{what}, {case.processes} processes",
                "≥ 1.0 × storescp --fork",
                f"{to_storescp:.2f} ×",
                to_storescp >= 1,
            )
        ]
    return []


def _memory_mib(folder: Path, *, quick: bool) -> float:
    """Peak resident memory of a listener that takes sixteen objects of 60 MB at the same time, three times."""
    paths = write_objects(folder / "huge", 16, 5480, 5480)
    here, port = folder / "memory", free_port()
    here.mkdir()
    with our_listener(here, port) as process:
        for _ in range(1 if quick else 3):
            _send(paths, "CXR", port, 16, {})
        status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def _seconds(here: Path, receiver: str, case: Case) -> float:
    port = free_port()
    if receiver == "ours":
        with our_listener(here, port, **{"listener.processes": str(case.processes)}) as process:
            if case.processes > 1:
                wait_until_all_listen(process, case.processes)
            return _send(case.paths, "CXR", port, case.associations, case.env)
    if receiver == "storescp":
        with storescp(here, port, case.env, fork=case.associations > 1):
            return _send(case.paths, "STORESCP", port, case.associations, case.env)
    with orthanc(here, port, free_port()):
        return _send(case.paths, "ORTHANC", port, case.associations, case.env)


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
