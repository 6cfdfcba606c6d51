"""The whole service on a disk that is full: it says so, and goes on by itself when there is room."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

CXR = Path(sys.executable).parent / "cxr"
METRICS = """
retry_s = 0.5
[metrics]
listener_port = {listener}
worker_port = {worker}
"""


def metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=120) as answer:
        lines = answer.read().decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)


def said_by_jobs(installation: Any) -> str:
    """What `cxr jobs list` says besides its rows."""
    done = subprocess.run(
        [CXR, "jobs", "list", "--json"], cwd=installation.folder, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0
    assert {json.loads(line)["state"] for line in done.stdout.splitlines()} <= {"queued", "scoring", "reported"}
    return done.stderr


@pytest.fixture
def fault(bad_disk_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is written into this file is how the disk of every process that starts now fails."""
    monkeypatch.setenv("LD_PRELOAD", str(bad_disk_library))
    monkeypatch.setenv("BAD_DISK_UNDER", "var/spool/:var/audit.sqlite")
    monkeypatch.setenv("BAD_DISK_FAULT", str(tmp_path / "fault"))
    return tmp_path / "fault"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["full", pytest.param("sync", marks=pytest.mark.long)])
def test_a_disk_that_fails_is_said_and_waited_out(
    how: str,
    service: Callable[..., Any],
    fault: Path,
    synthetic_xray: Callable[..., Dataset],
    free_port: Callable[[], int],
    wait_for: Any,
) -> None:
    listener, worker = free_port(), free_port()
    installation = service(METRICS.format(listener=listener, worker=worker))
    installation.start("listen")
    assert installation.send(synthetic_xray(seed=1), synthetic_xray(seed=2)) == [0x0000, 0x0000]
    working = installation.start("work")
    wait_for(lambda: '"holds": true' in installation.log.read_text(), "the worker has begun", 240)
    fault.write_text(how)
    assert installation.send(synthetic_xray(seed=3)) == [0xA700]
    wait_for(lambda: '"storage_refused"' in installation.log.read_text(), "the worker says so", 240)
    assert metric(listener, 'cxr_received_objects_total{outcome="spool_full"}') == 1.0
    waiting = metric(worker, 'cxr_jobs{state="queued"}') + metric(worker, 'cxr_jobs{state="scoring"}')
    assert waiting == 2.0
    assert said_by_jobs(installation).startswith("The disk of the spool refused a write")
    assert metric(listener, "cxr_spool_free_bytes") > 0

    fault.unlink()
    assert said_by_jobs(installation) == ""
    assert installation.send(synthetic_xray(seed=3)) == [0x0000]
    finished = installation.wait_until_finished(3)
    assert [row["state"] for row in finished] == ["reported"] * 3
    assert installation.query("SELECT max(attempts) FROM job") == [(1,)], "the disk is no fault of an image"
    assert working.poll() is None, "it is the same worker"
    installation.stop()
    installation.run("audit", "verify")
    installation.run("db", "check")
