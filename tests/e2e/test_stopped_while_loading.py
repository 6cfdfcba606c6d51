"""SIGTERM while the worker loads its models: it ends at once, loses nothing and leaves no temporary folder."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset


@pytest.mark.parametrize("step", ["imports", "expansion", "compilation", "first_score"])
def test_a_load_that_does_not_end_does_not_hold_up_the_stop(
    step: str,
    service: Callable[..., Any],
    synthetic_xray: Callable[..., Dataset],
    wait_for: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    installation = service('runtime = "openvino"\n' if step == "compilation" else "", model=step != "expansion")
    installation.start("listen")
    assert installation.send(synthetic_xray()) == [0]
    worker = installation.start("work", stuck_at=step)
    wait_for(lambda: (installation.folder / "stuck").exists() or worker.poll() is not None, "loading is stuck", 180)
    assert list(temporary.iterdir())
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0  # never, if the stop waits for the load
    assert list(temporary.iterdir()) == []
    assert installation.query("SELECT state, attempts FROM job") == [("queued", 0)]
    assert installation.query("SELECT count(*) FROM lease") == [(0,)]
    installation.run("db", "check")
