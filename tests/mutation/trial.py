"""One mutant's trial: its tests in a child process that ends at the first failure or at a time limit."""

from __future__ import annotations

import compileall
import importlib
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# What nearly every test loads and no mutant changes; loaded once, before the children are forked.
LIBRARIES = (
    *("alembic", "apscheduler", "blake3", "numpy", "pandas", "prometheus_client", "pydantic_settings"),
    *("pydicom", "pynetdicom", "pysqlite3", "rich", "scipy.stats", "sklearn.metrics", "sqlalchemy.orm", "structlog"),
    "typer",
)
MOST_BYTES = 8 * 2**30
A_TEST_S = 120
OUR_FAULT = 99


def load_libraries() -> None:
    """Import what the children share."""
    for name in LIBRARIES:
        importlib.import_module(name)


def compile_all(tree: Path, folders: Sequence[str]) -> None:
    """Compile a tree as it is, the tests with pytest's assertions, so that no trial has to."""
    compileall.compile_dir(tree, quiet=2)
    options = ["-q", "--collect-only", "-p", "no:cacheprovider"]
    subprocess.run(
        [sys.executable, "-m", "pytest", *options, *folders], cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)},
        stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip


@dataclass(eq=False)
class Chosen:
    """A pytest plugin that runs the chosen tests alone, in their order, and keeps which one failed."""

    tests: Sequence[str]
    failed: list[str] = field(default_factory=list)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        order = {test: index for index, test in enumerate(self.tests)}
        items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(f"the import of {report.nodeid}")


def _run_here(tree: Path, tests: Sequence[str], log: Path, answer: int) -> None:
    """Run the tests in this process, a fresh child, and write what failed to ``answer``."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(tree))
    chosen = Chosen(tests)
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--timeout={A_TEST_S}"]
    options += [f"--basetemp={tree.parent / 'tmp'}"]  # pytest clears the shared one while others run
    code = pytest.main([*options, *files], plugins=[chosen])
    if not chosen.failed and code != pytest.ExitCode.OK:
        # A mutant can break the import of conftest.py; anything else is a mistake of ours.
        assert code == pytest.ExitCode.USAGE_ERROR, code
        chosen.failed.append("the start")
    os.write(answer, "".join(chosen.failed[:1]).encode())


def killed_by(tree: Path, tests: Sequence[str], log: Path, limit_s: float) -> str:
    """Run ``tests`` over a tree in a child process; return what failed first, "time" past the limit, "" for nothing."""
    answer, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(answer)
            _run_here(tree, tests, log, theirs)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it is, the fork ends here
            traceback.print_exc()
            os._exit(OUR_FAULT)
    os.close(theirs)
    try:
        return _answer_of(child, answer, limit_s)
    finally:
        os.close(answer)


def _answer_of(child: int, answer: int, limit_s: float) -> str:
    """Wait for a child, and end it with all that it started."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            _end(child)
            code = os.waitstatus_to_exitcode(status)
            if code == OUR_FAULT:
                raise RuntimeError("A trial did not begin; read trial.log.")
            return os.read(answer, 10_000).decode() if code == 0 else "the end of the process"
        time.sleep(0.05)
    _end(child)
    os.waitpid(child, 0)
    return "time"


def _end(group: int) -> None:
    """End what is left of a child's process group."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
