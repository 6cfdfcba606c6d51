"""Durable receive: our listener, DCMTK's storescp and Orthanc with the same sender in one run.

The sender is DCMTK's dcmsend, one process per association. Our listener and Orthanc sync each object to disk before
they answer; storescp does not. A receiver that is not installed is left out.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from figures import Figure, Part
from processes import (
    family,
    free_port,
    orthanc,
    our_listener,
    processor_s,
    storescp,
    wait_until_all_listen,
    write_objects,
)

NODELAY = {"TCP_NODELAY": "1"}
MEMORY_MIB = 400.0
PEERS = {"storescp": "storescp", "Orthanc": "/usr/sbin/Orthanc"}


@dataclass(frozen=True)
class Case:
    """Objects, number of associations and environment of the sender."""

    size: str
    paths: list[Path]
    associations: int
    env: dict[str, str]

    @property
    def how(self) -> str:
        return "TCP_NODELAY=1" if self.env else "default"


def measure(folder: Path, *, quick: bool) -> Part:
    shrink = 10 if quick else 1
    cores = len(os.sched_getaffinity(0))
    lines: list[str] = []
    figures: list[Figure] = []
    spent: dict[str, list[float]] = {}
    for size, paths in {
        "15 MB": write_objects(folder / "large", 40 // shrink, 2800, 2800),
        "0.15 MB": write_objects(folder / "small", 200 // shrink, 280, 280),
    }.items():
        for associations, env in ((1, {}), (1, NODELAY), (4, {}), (4, NODELAY), (16, {})):
            case = Case(size, paths, associations, env)
            ours = {
                processes: _rate(folder, case, processes, spent) for processes in sorted({1, min(cores, associations)})
            }
            theirs = {peer: _rate(folder, case, peer) for peer, program in PEERS.items() if shutil.which(program)}
            lines += [_line(case, processes, rate, theirs) for processes, rate in ours.items()]
            figures += _figures(case, ours, theirs)
    shutil.rmtree(folder / "large")
    memory = {processes: _memory_mib(folder, processes, quick=quick) for processes in sorted({1, cores})}
    figures += [
        Figure(
            f"listener memory, 16 associations × 60 MB, processes = {processes}",
            f"< {MEMORY_MIB:.0f} MiB",
            f"{mib:.0f} MiB",
            mib < MEMORY_MIB,
        )
        for processes, mib in memory.items()
    ]
    missing = [peer for peer, program in PEERS.items() if not shutil.which(program)]
    head = [
        "## Durable receive",
        "",
        "`python bench/run.py receive` · sender dcmsend · objects/s, in brackets MB/s; last columns: our ratios"
        + (f" · not installed here: {', '.join(missing)}" if missing else ""),
        "",
        "| objects | associations | our processes | sender and DCMTK | cxr listen | storescp | Orthanc | ÷ storescp "
        "| ÷ Orthanc |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    peaks = ", ".join(f"{mib:.0f} MiB with processes = {processes}" for processes, mib in memory.items())
    costs = ", ".join(f"{size}: {statistics.median(each) * 1000:.1f} ms" for size, each in spent.items())
    tail = ["", f"Processor time of our listener per object: {costs}."]
    tail += ["", f"Peak memory of the listener, all of its processes, 16 associations × 60 MB at once: {peaks}."]
    return Part("\n".join([*head, *lines, *tail]) + "\n", figures)


def _line(case: Case, processes: int, rate: float, theirs: dict[str, float]) -> str:
    megabytes = sum(path.stat().st_size for path in case.paths) / 1e6 / len(case.paths)
    rates = [rate, *(theirs.get(peer) for peer in PEERS)]
    cells = ["–" if each is None else f"{each:.1f} ({each * megabytes:.0f})" for each in rates]
    cells += [f"{rate / theirs[peer]:.2f}" if peer in theirs else "–" for peer in PEERS]
    return (
        f"| {len(case.paths)} × {case.size} | {case.associations} | {processes} | {case.how} | "
        + " | ".join(cells)
        + " |"
    )


def _figures(case: Case, ours: dict[int, float], theirs: dict[str, float]) -> list[Figure]:
    """Return the lines of the table of targets, which hold for senders with default settings."""
    if case.env:
        return []
    processes = max(ours)
    what = f"durable receive, {case.associations} association{'s' if case.associations > 1 else ''}, {case.size}"
    if case.associations == 1:
        return [_target(what, ours[1], theirs, "storescp", 1.2), _target(what, ours[1], theirs, "Orthanc", 2.0)]
    minima = {
        (4, "15 MB"): ("storescp", 1.0),
        (4, "0.15 MB"): ("Orthanc", 1.5),
        (16, "0.15 MB"): ("Orthanc", 1.0),
    }
    if (case.associations, case.size) not in minima:
        return []
    return [_target(f"{what}, processes = {processes}", ours[processes], theirs, *minima[case.associations, case.size])]


def _target(what: str, rate: float, theirs: dict[str, float], peer: str, minimum: float) -> Figure:
    target = f"≥ {minimum} × {peer}"
    if peer not in theirs:
        return Figure(what, target, f"{peer} is not installed", None)
    return Figure(what, target, f"{rate / theirs[peer]:.2f} ×", rate >= minimum * theirs[peer])


def _memory_mib(folder: Path, processes: int, *, quick: bool) -> float:
    """Return the peak resident memory, MiB, of a listener that receives sixteen objects of 60 MB at once, twice.

    Peaks of several processes are added, which is an upper bound.
    """
    paths = write_objects(folder / "huge", 16, 5480, 5480)
    here, port = folder / f"memory{processes}", free_port()
    here.mkdir()
    with our_listener(here, port, **{"listener.processes": str(processes)}) as process:
        if processes > 1:
            wait_until_all_listen(process, processes)
        pids = family(process.pid)
        for _ in range(1 if quick else 2):
            _send(paths, "CXR", port, 16, {})
        peak = sum(_peak_mib(pid) for pid in pids)
    shutil.rmtree(here)
    return peak


def _peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def _rate(folder: Path, case: Case, receiver: int | str, spent: dict[str, list[float]] | None = None) -> float:
    """Return objects per second; ``receiver`` is the number of our processes, or the name of another receiver.

    Processor seconds of our listener per object are appended to ``spent``, by size.
    """
    here, port = folder / "receiver", free_port()
    here.mkdir()
    send = partial(_send, case.paths, port=port, associations=case.associations, env=case.env)
    if isinstance(receiver, int):
        with our_listener(here, port, **{"listener.processes": str(receiver)}) as process:
            if receiver > 1:
                wait_until_all_listen(process, receiver)
            before = processor_s(family(process.pid))
            seconds = send("CXR")
            if spent is not None:
                used = processor_s(family(process.pid)) - before
                spent.setdefault(case.size, []).append(used / len(case.paths))
    elif receiver == "storescp":
        with storescp(here, port, case.env, fork=case.associations > 1):
            seconds = send("STORESCP")
    else:
        with orthanc(here, port, free_port()):
            seconds = send("ORTHANC")
    shutil.rmtree(here)
    return len(case.paths) / seconds


def _send(paths: list[Path], called: str, port: int, associations: int, env: dict[str, str]) -> float:
    """Return the seconds until every object is acknowledged."""
    shares = [paths[number::associations] for number in range(associations)]
    start = time.monotonic()
    senders = [
        subprocess.Popen(
            ["dcmsend", "-aec", called, "--no-halt", "127.0.0.1", str(port), *map(str, share)],
            env={**os.environ, **env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for share in shares
        if share
    ]
    for sender in senders:
        _, error = sender.communicate(timeout=300)
        if sender.returncode:
            raise RuntimeError(f"dcmsend to {called} ended with {sender.returncode}: {error[-300:]!r}")
    return time.monotonic() - start
