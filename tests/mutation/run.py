"""``make mutants``: how many small changes of the source the tests notice. Not part of CI: it takes hours.

Each mutant is one change at one place of the source, as cosmic-ray makes it, in a copy of the checkout. The tests that
reach its line run until the first fails. Research use only: it measures the tests, not the product.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from reach import Reach
from scipy.stats import binomtest
from sites import Mutant, sample
from trial import compile_all, killed_by, load_libraries

ROOT = Path(__file__).resolve().parent.parent.parent


def copy_checkout(to: Path) -> None:
    """Copy what git knows of the checkout; ``../shared`` of the copy is that of the checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    shutil.rmtree(to, ignore_errors=True)
    for name in filter(None, listed.split("\0")):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name)
    shared = to.parent / "shared"
    if not shared.is_symlink():
        shared.symlink_to(ROOT.parent / "shared")


def try_one(tree: Path, mutant: Mutant, tests: list[str], limit_s: float, number: int) -> str:
    """Return what killed a mutant, "" if nothing did."""
    if not tests:
        return ""
    path = tree / mutant.path
    original, times = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(mutant.source(original), encoding="utf-8")
    # Compiled files are known by their source's time and size: no mutant has the time of another.
    os.utime(path, (times.st_atime, times.st_mtime + 10 + number))
    try:
        return killed_by(tree, tests, tree.parent / "trial.log", limit_s)
    finally:
        path.write_text(original, encoding="utf-8")
        os.utime(path, (times.st_atime, times.st_mtime))


def change_of(mutant: Mutant) -> str:
    """The first line that differs, before and after."""
    original = (ROOT / mutant.path).read_text(encoding="utf-8")
    lines = zip(original.splitlines(), mutant.source(original).splitlines(), strict=False)
    return next(f"- {before.strip()}\n+ {after.strip()}" for before, after in lines if before != after)


def summary(killed: int, tried: int) -> str:
    """A share with its 95 % Wilson interval."""
    interval = binomtest(killed, tried).proportion_ci(method="wilson")
    return f"{killed}/{tried} = {killed / tried:.1%} (95 % {interval.low:.1%} to {interval.high:.1%})"


def arguments_of_the_command() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=lambda text: int(text) if text else None, help="places; all if empty")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "mutants", help="coverage, tests.xml, results")
    parser.add_argument("--only", default="", help="of the sample, only what begins with this path")
    parser.add_argument("--again", action="store_true", help="try those again that survived")
    return parser.parse_args()


def known_results(path: Path) -> dict[str, dict[str, Any]]:
    """Results of earlier runs by mutant; of several the last."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line["key"]: line for line in map(json.loads, lines)}


def report(mutants: list[Mutant], known: dict[str, dict[str, Any]]) -> None:
    """Print the survivors, and the rate of each room and of all."""
    tried, killed = Counter[str](), Counter[str]()
    for mutant in mutants:
        line, room = known[mutant.key], mutant.path.partition("/")[0]
        tried[room] += 1
        killed[room] += bool(line["by"])
        if not line["by"]:
            print(f"\n{mutant.path}:{mutant.first} {mutant.operator}, {line['tests']} tests", line["change"], sep="\n")
    for room, count in tried.items():
        print(f"{room}: {summary(killed[room], count)}")
    print(f"all: {summary(killed.total(), tried.total())}")


def main() -> None:
    """Draw the mutants, try each that has no result yet, print the rate and the survivors."""
    arguments = arguments_of_the_command()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutants"]
    files = [
        str(path.relative_to(ROOT)) for each in settings["folders"] for path in sorted((ROOT / each).rglob("*.py"))
    ]
    mutants = sample(ROOT, files, settings["operators"], arguments.sample, arguments.seed)
    mutants = [mutant for mutant in mutants if mutant.path.startswith(arguments.only)]
    reach = Reach.read(ROOT, arguments.folder / "coverage", arguments.folder / "tests.xml")
    tree, results = arguments.folder / "tree", arguments.folder / "results.jsonl"
    known = known_results(results)
    copy_checkout(tree)
    compile_all(tree, sorted({test.partition("::")[0] for test in reach.seconds}))
    load_libraries()
    for number, mutant in enumerate(mutants):
        line = known.get(mutant.key)
        if line is None or (arguments.again and not line["by"]):
            tests = reach.tests_of(mutant.path, mutant.first, mutant.last, settings["tests_s"])
            limit_s = 60 + 10 * sum(reach.seconds[test] for test in tests)
            by = try_one(tree, mutant, tests, limit_s, number)
            known[mutant.key] = {"key": mutant.key, "by": by, "tests": len(tests), "change": change_of(mutant)}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[mutant.key]) + "\n")
            print(f"{number + 1}/{len(mutants)} {mutant.path}:{mutant.first} {by or 'SURVIVED'}", flush=True)
    report(mutants, known)


if __name__ == "__main__":
    main()
