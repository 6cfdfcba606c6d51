"""Run every measurement and print it as Markdown: `make bench`. Nothing here fails on a number.

Each line is a ratio from one run on one machine; absolute figures belong to that machine.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import decode
import history
import latency
import receive
import report
import scoring
import startup
import throughput
import train_speed
from figures import Figure, summary

PARTS = {
    "startup": startup.measure,
    "receive": receive.measure,
    "decode": decode.measure,
    "scoring": scoring.measure,
    "report": report.measure,
    "latency": latency.measure,
    "throughput": throughput.measure,
    "history": history.measure,
    "train": train_speed.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--quick", action="store_true", help="a tenth of the objects: to see that it works")
    arguments = parser.parse_args()
    print(f"Measured {datetime.datetime.now(datetime.UTC):%Y-%m-%d} on {machine()}.\n")
    figures: list[Figure] = []
    for name in arguments.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="cxr-bench-") as folder:
            part = PARTS[name](Path(folder), quick=arguments.quick)
        print(part.text, flush=True)
        figures += part.figures
    print(summary(figures))


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
    cores = len(__import__("os").sched_getaffinity(0))
    dcmtk = subprocess.run(["storescp", "--version"], capture_output=True, text=True).stdout.split()
    return (
        f"{model}, {cores} cores, Python {platform.python_version()}, DCMTK {dcmtk[2] if len(dcmtk) > 2 else 'unknown'}"
    )


if __name__ == "__main__":
    main()
