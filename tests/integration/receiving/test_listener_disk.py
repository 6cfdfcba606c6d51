"""A disk that is full: refused with a status that says so, nothing left behind, and on again when there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE

Xray = Callable[..., Dataset]


def test_below_the_floor_new_associations_are_refused_for_now(listening: Any) -> None:
    running = listening(min_free_mib=10**9)
    entity = AE("MODALITY")
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("127.0.0.1", running.port, ae_title="CXR")
    assert association.is_rejected
    answer = association.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 1)
    assert running.count("cxr_refused_associations_total", reason="spool_full") == 1


def test_below_the_floor_objects_in_flight_are_refused(
    listening: Any, scu: Any, synthetic_xray: Xray, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = listening()
    with scu(running.port) as peer:
        monkeypatch.setattr(running.spool, "_min_free_mib", 10**9)
        assert peer.store_dataset(synthetic_xray()) == 0xA700
        monkeypatch.setattr(running.spool, "_min_free_mib", 1)
        assert peer.store_dataset(synthetic_xray()) == 0x0000
    assert running.count("cxr_received_objects_total", outcome="spool_full") == 1
    assert len(running.kept()) == 1


_LIMITED = """
import resource, sys, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 1024 * 1024, 2 * 1024 * 1024))
sys.argv = ["cxr", *sys.argv[1:]]
runpy.run_module("app", run_name="__main__")
"""


def test_a_write_that_the_system_refuses_is_a700(
    make_settings: Any, scu: Any, echoes: Any, synthetic_xray: Xray, wait_for: Any, tmp_path: Path
) -> None:
    """A real refusal in mid-write (EFBIG) of a real process; no privilege needed."""
    settings = make_settings()
    process = _listen([sys.executable, "-c", _LIMITED], settings, tmp_path)
    try:
        wait_for(lambda: echoes(settings.listener.port), "the service answers")
        with scu(settings.listener.port) as peer:
            assert peer.store_dataset(synthetic_xray(rows=1500, columns=1000)) == 0xA700
            assert peer.store_dataset(synthetic_xray()) == 0x0000
        assert list((settings.spool_dir / "incoming").iterdir()) == []
    finally:
        process.kill()
        process.wait(timeout=120)


@pytest.mark.parametrize("floor_mib", [0, 8])
def test_a_full_file_system_is_a700_and_room_helps(
    make_settings: Any, scu: Any, echoes: Any, synthetic_xray: Xray, wait_for: Any, tmp_path: Path, floor_mib: int
) -> None:
    """A real file system: a tmpfs of 28 MiB in a mount namespace of its own; ENOSPC, or the floor before it."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0:
        pytest.skip("no right to mount a file system of our own (unshare -m)")
    settings = make_settings(min_free_mib=floor_mib)
    settings.data_dir.mkdir()
    mounted = f'mount -t tmpfs -o size=28m none {settings.data_dir} && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mounted, "sh", sys.executable, "-P", "-m", "app"]
    process = _listen(command, settings, tmp_path)
    try:
        wait_for(lambda: echoes(settings.listener.port), "the service answers")
        inside = Path(f"/proc/{process.pid}/root") / settings.data_dir.relative_to("/")
        with scu(settings.listener.port) as peer:
            statuses = [
                peer.store_dataset(synthetic_xray(rows=2000, columns=1500, seed=seed)) for seed in range(6)
            ]  # 6 MB each
            assert statuses[:2] == [0x0000, 0x0000]
            assert statuses[-1] == 0xA700
            assert list((inside / "spool" / "incoming").iterdir()) == []
            assert shutil.disk_usage(inside).free >= (floor_mib - 6) * 1024 * 1024, "one object below the floor at most"
            assert len(list((inside / "spool" / "objects").rglob("*.dcm"))) == statuses.count(0x0000)
            next((inside / "spool" / "objects").rglob("*.dcm")).unlink()
            assert peer.store_dataset(synthetic_xray(rows=2000, columns=1500, seed=7)) == 0x0000
    finally:
        process.kill()
        process.wait(timeout=120)


def _listen(command: list[str], settings: Any, tmp_path: Path) -> subprocess.Popen[bytes]:
    options = [
        f"data_dir={settings.data_dir}",
        f"listener.port={settings.listener.port}",
        f"listener.min_free_mib={settings.listener.min_free_mib}",
        f"audit.key_file={tmp_path / 'audit.key'}",
    ]
    arguments = [argument for option in options for argument in ("--set", option)]
    with (tmp_path / "listen.log").open("ab") as log:
        return subprocess.Popen([*command, *arguments, "listen"], stderr=log, stdout=log, env=dict(os.environ))
