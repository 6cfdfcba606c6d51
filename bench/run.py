"""Run every measurement and print it as Markdown: `make bench`. Nothing here fails on a number.

Each line is a ratio from one run on one machine; absolute figures belong to that machine. Every part
runs in a process of its own: one that ends badly, or takes far more than its share of the time, is
said to be not measured, and the others go on.
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
class Share:
    """A part's module, and the seconds that it may take of the whole on two cores."""

    module: str
    seconds: float
    is_quick: bool = False  # in a run of everything


PARTS = {
    "startup": Share("startup", 40),
    "receive": Share("receive", 165),
    "decode": Share("decode", 30),
    "scoring": Share("scoring", 40),
    "report": Share("report", 15),
    "deliver": Share("deliver", 40),
    "latency": Share("latency", 40),
    "throughput": Share("throughput", 120),
    "history": Share("history", 60),
    "memory": Share("memory", 50),
    "train": Share("train_speed", 45, is_quick=True),
}

LIMIT = 2.5  # times its share, and a part is ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--quick", action="store_true", help="a tenth of the objects: to see that it works")
    parser.add_argument("--count", type=int, help="images, for the parts that can take another number")
    parser.add_argument("--patient", action="store_true", help="no limit of time: beside other load")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # this is the process of one part
    arguments = parser.parse_args()
    if arguments.into is not None:
        _measure(arguments.parts[0], arguments.into, quick=arguments.quick, count=arguments.count)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is measured ends too, and its files go
    print(f"Measured {datetime.datetime.now(datetime.UTC):%Y-%m-%d} on {machine()}.\n")
    figures: list[Figure] = []
    taken = {}
    for name in arguments.parts or PARTS:
        begun = time.monotonic()
        is_quick = arguments.quick or (not arguments.parts and PARTS[name].is_quick)
        limit_s = None if arguments.patient or arguments.count else LIMIT * PARTS[name].seconds
        part = _apart(name, limit_s, is_quick=is_quick, count=arguments.count)
        taken[name] = time.monotonic() - begun
        print(part.text, flush=True)
        figures += part.figures
    print(summary(figures))
    met = sum(figure.is_met is True for figure in figures)
    print(f"{met} of {len(figures)} met, in {sum(taken.values()) / 60:.1f} minutes: "
          + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in taken.items()) + ".")  # fmt: skip


def _measure(name: str, into: Path, *, quick: bool, count: int | None) -> None:
    measure = importlib.import_module(PARTS[name].module).measure
    options = {"count": count} if count and "count" in inspect.signature(measure).parameters else {}
    folder = into.parent / "files"
    folder.mkdir()
    measure(folder, quick=quick, **options).write(into)


def _apart(name: str, limit_s: float | None, *, is_quick: bool, count: int | None) -> Part:
    """Measure one part in a process group of its own, which is gone afterwards, and so are its files."""
    with tempfile.TemporaryDirectory(prefix="cxr-bench-", ignore_cleanup_errors=True) as folder:
        into, log = Path(folder) / "part.json", Path(folder) / "log.txt"
        command = [sys.executable, __file__, name, "--into", str(into)]
        command += ["--quick"] if is_quick else []
        command += ["--count", str(count)] if count else []
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        why = _wait(process, limit_s)
        if why is None and into.exists():
            return Part.read(into)
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no word"]
        why = why or last[0]
    return Part(
        f"## {name}\n\n`python bench/run.py {name}` · not measured: {why}\n", [Figure(name, "measured", why, None)]
    )


def _wait(process: subprocess.Popen, seconds: float | None) -> str | None:
    """Wait for a part; what went wrong, if it was the time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"it took more than {seconds:.0f} s"
    finally:  # also what it left running
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return None


def machine() -> str:
    """The machine in words: processor, cores, Python, DCMTK."""
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
