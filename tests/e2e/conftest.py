"""The whole service as its users run it: the installed command, in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE

CXR = Path(sys.executable).parent / "cxr"
KILLED_AT = Path(__file__).parent / "killed_at.py"
STUCK_AT = Path(__file__).parent / "stuck_at.py"


@dataclass
class Service:
    """One installation: its folder, its settings, and whatever of it is running."""

    folder: Path
    port: int
    wait_for: Callable[..., Any]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def start(
        self, *arguments: str, killed_at: str | None = None, stuck_at: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Run a verb in the background, e.g. start("serve"); optionally one that dies or never ends at a step."""
        command = [str(CXR)]
        for script, step in ((KILLED_AT, killed_at), (STUCK_AT, stuck_at)):
            if step is not None:
                command = [sys.executable, "-P", str(script), step]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*command, *arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                umask=0,  # what is private is private by itself
            )
        self.processes[arguments[0]] = process
        if arguments[0] in ("serve", "listen"):
            self.wait_for(lambda: self._accepts() or process.poll() is not None, "the listener accepts", 120)
            assert process.poll() is None, self.log.read_text()[-3000:]
        return process

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a verb to its end and return what it prints."""
        done = subprocess.run([CXR, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr[-3000:]
        return done.stdout

    def results(self, *filters: str) -> list[dict[str, Any]]:
        """What `cxr audit list --json` prints."""
        return [json.loads(line) for line in self.run("audit", "list", "--json", *filters).splitlines()]

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the live database, as a test may and people should not: cheaper than a process per look."""
        with closing(
            sqlite3.connect(f"file:{self.folder}/var/audit.sqlite?mode=ro", uri=True, timeout=30)
        ) as connection:
            return connection.execute(statement).fetchall()

    def wait_until_finished(self, count: int, timeout_s: float = 180) -> list[dict[str, Any]]:
        """Wait until so many images have reached a state in which they stay; return their results."""
        unfinished = "SELECT count(*), sum(state IN ('queued', 'scoring')) FROM images"

        def finished() -> bool:
            images, moving = self.query(unfinished)[0]
            return bool(images >= count and not moving)

        self.wait_for(finished, f"{count} images are finished", timeout_s)
        return self.results()

    def wait_until_delivered(self, count: int = 1, timeout_s: float = 180) -> None:
        """Wait until so many deliveries are verified, and none is under way."""
        states = "SELECT sum(state = 'verified'), sum(state <> 'verified') FROM deliveries"
        self.wait_for(lambda: self.query(states)[0] == (count, 0), f"{count} deliveries are verified", timeout_s)

    def send(self, *datasets: Dataset) -> list[int]:
        """C-STORE datasets over one association and return the statuses."""
        entity = AE(ae_title="E2E")
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 120
        for sop_class, syntax in {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in datasets}:
            entity.add_requested_context(sop_class, syntax)
        association = entity.associate("127.0.0.1", self.port, ae_title="CXR")
        assert association.is_established
        statuses = [association.send_c_store(dataset).Status for dataset in datasets]
        association.release()
        return statuses

    def open_to_others(self) -> list[str]:
        """Files and folders of the installation's data and keys that others may read or write."""
        kept = [path for name in ("var", "var.keys") for path in (self.folder / name).rglob("*")]
        return [path.name for path in kept if not path.is_symlink() and path.stat().st_mode & 0o077]

    def stop(self) -> None:
        """SIGTERM to everything that runs, and wait for its end."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for name, process in self.processes.items():
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
                pytest.fail(f"cxr {name} did not end within 120 s of SIGTERM:\n{self.log.read_text()[-3000:]}")
        self.processes.clear()


@pytest.fixture
def service(
    tmp_path: Path, free_port: Callable[[], int], tiny_package: Callable[..., Any], wait_for: Callable[..., Any]
) -> Iterator[Callable[..., Service]]:
    """Make an installation whose model is the tiny network; the arguments are added to its settings file."""
    made: list[Service] = []

    def make(settings: str = "", *, listener: str = "", model: bool = True) -> Service:
        folder = tmp_path / f"service{len(made)}"
        folder.mkdir()
        port = free_port()
        base = f"""
data_dir = "var"
[listener]
port = {port}
min_free_mib = 16
{listener}
[worker]
poll_s = 0.1
decode_processes = 1
lease_s = 5
"""
        # The pictures of most tests are drawn: the view model would rightly hold them.
        view = "" if "[view]" in settings else '\n[view]\npixels = "flag"\n'
        (folder / "cxr.toml").write_text(base + settings + view)
        if model:
            _serve_with(tiny_package(), folder / "var")
        made.append(Service(folder=folder, port=port, wait_for=wait_for))
        return made[-1]

    yield make
    for installation in made:
        installation.stop()
        assert installation.open_to_others() == []


def _serve_with(package: Any, data_dir: Path) -> None:
    """Put a package into service before the first start, as `cxr model promote` would."""
    from inference.registry import TRAINED, Registry

    (data_dir / "models").mkdir(parents=True, mode=0o700)
    registry = Registry(data_dir / "models")
    registry.promote(
        registry.add(package.folder).fingerprint,
        now=datetime.now(UTC),
        actor="tests",
        reason="tests",
        accept={TRAINED: "tests"},
    )
