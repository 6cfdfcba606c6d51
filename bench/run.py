"""Run all measurements and print them as Markdown: `make bench`. A missed target is no error.

Ratios are from one run on one machine; absolute figures hold for that machine. Every part runs in a process of its
own: a part that fails or takes far longer than planned is reported as not measured, and the others continue.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import inspect
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from figures import Figure, Part, summary


@dataclass(frozen=True)
class PlannedPart:
    """Module of a part, and its planned seconds on two cores."""

    module: str
    seconds: float
    is_quick: bool = False  # in a run of all parts


PARTS = {
    "startup": PlannedPart("startup", 40),
    "receive": PlannedPart("receive", 165),
    "decode": PlannedPart("decode", 30),
    "scoring": PlannedPart("scoring", 40),
    "report": PlannedPart("report", 15),
    "deliver": PlannedPart("deliver", 40),
    "latency": PlannedPart("latency", 40),
    "throughput": PlannedPart("throughput", 120),
    "history": PlannedPart("history", 60),
    "memory": PlannedPart("memory", 50),
    "train": PlannedPart("train_speed", 45, is_quick=True),
}

LIMIT = 2.5  # times the planned seconds, after which a part is stopped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--quick", action="store_true", help="a tenth of the objects, to check that it works")
    parser.add_argument("--count", type=int, help="number of images, for the parts that accept it")
    parser.add_argument("--patient", action="store_true", help="no time limit, for a loaded machine")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # set in the process of one part
    arguments = parser.parse_args()
    if arguments.into is not None:
        _measure(arguments.parts[0], arguments.into, quick=arguments.quick, count=arguments.count)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that measured processes end and files are removed
    print(f"Measured {datetime.datetime.now(datetime.UTC):%Y-%m-%d} on {machine()}.\n")
    figures: list[Figure] = []
    seconds_of_parts = {}
    for name in arguments.parts or PARTS:
        start = time.monotonic()
        is_quick = arguments.quick or (not arguments.parts and PARTS[name].is_quick)
        limit_s = None if arguments.patient or arguments.count else LIMIT * PARTS[name].seconds
        part = _measure_in_process(name, limit_s, is_quick=is_quick, count=arguments.count)
        seconds_of_parts[name] = time.monotonic() - start
        print(part.text, flush=True)
        figures += part.figures
    print(summary(figures))
    met = sum(figure.is_met is True for figure in figures)
    print(f"{met} of {len(figures)} met, in {sum(seconds_of_parts.values()) / 60:.1f} minutes: "
          + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in seconds_of_parts.items()) + ".")  # fmt: skip


def _measure(name: str, into: Path, *, quick: bool, count: int | None) -> None:
    measure = importlib.import_module(PARTS[name].module).measure
    options = {"count": count} if count and "count" in inspect.signature(measure).parameters else {}
    folder = into.parent / "files"
    folder.mkdir()
    measure(folder, quick=quick, **options).write(into)


def _measure_in_process(name: str, limit_s: float | None, *, is_quick: bool, count: int | None) -> Part:
    """Measure one part in a process group of its own; processes and files are removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="cxr-bench-", ignore_cleanup_errors=True) as folder:
        into, log = Path(folder) / "part.json", Path(folder) / "log.txt"
        command = [sys.executable, __file__, name, "--into", str(into)]
        command += ["--quick"] if is_quick else []
        command += ["--count", str(count)] if count else []
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        fault = _wait(process, limit_s)
        if fault is None and into.exists():
            return Part.read(into)
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        fault = fault or last[0]
    return Part(
        f"## {name}\n\n`python bench/run.py {name}` · not measured: {fault}\n", [Figure(name, "measured", fault, None)]
    )


def _wait(process: subprocess.Popen, seconds: float | None) -> str | None:
    """Wait for a part and return the fault if it exceeded its time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"it took more than {seconds:.0f} s"
    finally:  # also processes that it left running
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return None


def machine() -> str:
    """Return processor, cores, Python and DCMTK of this machine."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, Python {platform.python_version()}, DCMTK {_dcmtk()}"


def _dcmtk() -> str:
    try:
        words = subprocess.run(["storescp", "--version"], capture_output=True, text=True).stdout.split()
    except FileNotFoundError:
        return "not installed"
    return words[2] if len(words) > 2 else "unknown"


if __name__ == "__main__":
    main()
