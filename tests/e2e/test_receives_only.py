"""An installation with the listener's packages alone: it receives, and says what the other verbs need."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement


@pytest.fixture(scope="module")
def listener_packages(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with links to what locks/listener.txt names, and to our own metadata; nothing else."""
    folder = tmp_path_factory.mktemp("site-packages")
    site = Path(sysconfig.get_paths()["purelib"])
    lines = (root / "locks" / "listener.txt").read_text().splitlines()
    names = [Requirement(line.rstrip(" \\")).name for line in lines if "==" in line]
    for name in [*names, "cxr-listener"]:
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        for top in {Path(str(file)).parts[0] for file in files} - {"..", "__pycache__"}:
            if not (folder / top).exists() and top not in ("app", "cxr", "training"):
                (folder / top).symlink_to(site / top)
    return folder


@pytest.fixture
def run(root: Path, listener_packages: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``cxr`` in an empty folder, without the site's own packages (``-S``)."""

    def call(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-S", "-P", "-m", "app", *arguments],
            cwd=tmp_path,
            env={"PATH": os.defpath, "PYTHONPATH": f"{listener_packages}:{root}", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    return call


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    "arguments",
    [("serve",), ("work",), ("score", "x.dcm"), ("model", "list"), ("train", "split", "x.csv"), ("rebuild",)],
    ids=lambda arguments: arguments[0],
)
def test_verbs_of_the_worker_name_what_to_install(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "this installation only receives" in done.stderr
    assert "pip install 'cxr-listener[worker]'" in done.stderr
    assert "tensorflow" in done.stderr or "dicomweb-client" in done.stderr
    assert "Traceback" not in done.stderr
    assert "uncaught" not in done.stderr
    assert list(tmp_path.iterdir()) == [], "nothing was done"


@pytest.mark.parametrize(
    "arguments",
    [("--version",), ("--help",), ("config", "example"), ("init", "site", "--yes"), ("send", "--help")],
    ids=lambda arguments: arguments[0],
)
def test_the_other_verbs_work(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_it_receives(
    run: Run,
    root: Path,
    listener_packages: Path,
    tmp_path: Path,
    free_port: Callable[[], int],
    wait_for: Callable[..., Any],
) -> None:
    port = free_port()
    service = subprocess.Popen(
        [
            sys.executable,
            "-S",
            "-P",
            "-m",
            "app",
            "--set",
            f"listener.port={port}",
            "--set",
            "listener.min_free_mib=1",
            "listen",
        ],
        cwd=tmp_path,
        env={"PATH": os.defpath, "PYTHONPATH": f"{listener_packages}:{root}"},
        stdin=subprocess.DEVNULL,
    )
    film = root / "docs" / "example" / "frontal.dcm"
    try:
        wait_for(
            lambda: run("send", str(film), "--to", f"127.0.0.1:{port}").returncode == 0 or service.poll() is not None,
            "the film is stored",
            60,
        )
        assert service.poll() is None
        listed = run("audit", "list", "--json")
        assert '"state": "queued"' in listed.stdout, listed.stderr
    finally:
        service.terminate()
        assert service.wait(60) == 0
