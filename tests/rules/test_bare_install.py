"""The wheel in an empty environment, outside the checkout: what a person without a clone has."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

Cxr = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment after ``pip install 'cxr-listener[worker]'``, at the locks' versions."""
    folder = tmp_path_factory.mktemp("bare")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(root)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    constraints = folder / "constraints.txt"
    pins = re.findall(
        r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?(==[^\\\n]+)", (root / "locks" / "worker.txt").read_text(), re.M
    )
    constraints.write_text("".join(f"{name}{pin}\n" for name, pin in pins))
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=120)
    command = [folder / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-input"]
    done = subprocess.run(
        [*command, "--constraint", constraints, f"cxr-listener[worker] @ {wheel.as_uri()}"],
        capture_output=True,
        text=True,
        timeout=1500,
    )
    unreachable = re.search(r"NewConnectionError|Could not find a version", done.stderr)
    if done.returncode and unreachable and os.environ.get("CXR_REQUIRE_PEERS") != "1":
        pytest.skip("the package index can't be reached")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "venv" / "bin" / "cxr"


@pytest.fixture
def cxr(installed: Path, tmp_path: Path) -> Cxr:
    def call(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(installed), *map(str, arguments)],
            cwd=tmp_path,
            env={"PATH": os.defpath, "COLUMNS": "160"},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    return call


@contextmanager
def running(command: list[str | Path], folder: Path) -> Iterator[None]:
    with (folder / "service.log").open("wb") as log:
        service = subprocess.Popen(command, cwd=folder, env={"PATH": os.defpath}, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        service.send_signal(signal.SIGTERM)
        code = service.wait(120)
    assert code == 0, (folder / "service.log").read_text()[-3000:]


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_a_service_is_set_up_started_and_shown_without_a_checkout(
    cxr: Cxr, installed: Path, root: Path, tmp_path: Path, free_port: Callable[[], int], wait_for: Callable[..., Any]
) -> None:
    assert re.fullmatch(r"cxr-listener \d.*\n", cxr("--version").stdout)
    begun = cxr("init", "site", "--yes", "--ae-title", "BARE")
    assert begun.returncode == 0, begun.stderr
    written = {str(path.relative_to(tmp_path)) for path in (tmp_path / "site").rglob("*") if path.is_file()}
    assert written == {
        *("site/cxr.toml", "site/orthanc/autoroute.lua", "site/orthanc/orthanc.json"),
        *("site/systemd/cxr-listen.service", "site/systemd/cxr-work.service"),
    }
    options = ["--config", "site/cxr.toml", "--set", f"listener.port={free_port()}", "--set", "listener.min_free_mib=1"]
    absent = cxr("demo", *options)
    assert absent.returncode == 1
    assert "start `cxr serve` first" in absent.stderr
    with running([installed, *options, "serve"], tmp_path):
        wait_for(lambda: cxr(*options, "health", "listen").returncode == 0, "the listener is well", 120)
        shown = cxr("demo", *options, timeout=400)
        assert shown.returncode == 0, shown.stderr + (tmp_path / "service.log").read_text()[-2000:]
        assert "view       frontal" in shown.stdout
        assert re.search(r"score +covid19 0\.\d{4}, (below|at or above) the threshold", shown.stdout)
        assert "default-model-covid" in shown.stdout
        assert "RESEARCH USE ONLY" in shown.stdout
        again = cxr("demo", *options)
        assert again.returncode == 0, "the film is there already, and so is its result"
    film = root / "docs" / "example" / "frontal.dcm"
    scored = cxr("score", film, "--json")
    assert scored.returncode == 0, scored.stderr
    assert '"finding": "covid19"' in scored.stdout
    films = tmp_path / "films"
    films.mkdir()
    (films / "film.dcm").write_bytes(film.read_bytes())
    uid = dcmread(film, stop_before_pixels=True).SOPInstanceUID
    (films / "results.csv").write_text(f"sop_instance_uid,result\n{uid},positive\n")
    indexed = cxr("train", "index", "institutional", "films", "-o", "institution.csv")
    assert indexed.returncode == 0, indexed.stderr
    assert str(uid) in (tmp_path / "institution.csv").read_text()
    untrained = cxr("model", "build-untrained", "--architecture", "tiny", *options)
    assert untrained.returncode == 0, untrained.stderr
    assert cxr("db", "check", *options).returncode == 0
