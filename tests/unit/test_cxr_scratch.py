"""Temporary folders of models: nothing is left of a killed process, nothing is taken from a living one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from cxr.package.scratch import PREFIX, remove_abandoned, scratch_folder

HOLDER = """
import sys
from cxr.package.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "model.keras").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_uses_is_not(temporary: Path) -> None:
    later = time.time() + 3600
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        assert folder.parent == temporary
        assert remove_abandoned(temporary, now=later) == 0
        holder.kill()
        holder.wait()
    assert (folder / "model.keras").exists()
    assert remove_abandoned(temporary, now=folder.stat().st_mtime + 59) == 0  # it may be in the making
    assert remove_abandoned(temporary, now=later) == 1
    assert list(temporary.iterdir()) == []


def test_the_next_one_that_needs_a_folder_clears_up(temporary: Path) -> None:
    left = temporary / f"{PREFIX}abandoned"
    left.mkdir()
    (left / "model.keras").write_bytes(b"x")
    os.utime(left, (1, 1))
    with scratch_folder() as folder:
        assert [path for path in temporary.iterdir() if path != folder] == []
    assert list(temporary.iterdir()) == []


def test_only_folders_of_our_name_and_no_links_are_removed(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "kept").touch()
    (temporary / f"{PREFIX}link").symlink_to(elsewhere)
    (temporary / "other").mkdir()
    assert remove_abandoned(temporary, now=time.time() + 1e6) == 0
    assert (elsewhere / "kept").exists()
