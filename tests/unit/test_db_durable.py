"""Durable writes: fsync of the content before the name exists, fsync of the folder after."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from db.disk import Spool, whole_file
from db.disk.durable import create_once, write_file
from db.engine import Database
from db.events import load_or_create_key
from db.upkeep.exported_heads import export_head

Calls = list[tuple[str, str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Record the real calls of fsync, rename and link with the path that they are for."""
    calls: Calls = []
    real_fsync, real_rename, real_link = os.fsync, os.rename, os.link

    def fsync(descriptor: int) -> None:
        calls.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        calls.append(("rename", str(target)))
        real_rename(source, target)

    def link(source: Path, target: Path) -> None:
        calls.append(("link", str(target)))
        real_link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "link", link)
    return calls


def assert_durable(calls: Calls, path: Path, call: str) -> None:
    """Check that a draft of the file was synced before its rename or link, and the folder after."""
    named = calls.index((call, str(path)))
    drafts = [number for number, (name, each) in enumerate(calls) if name == "fsync" and f"/.{path.name}." in each]
    assert drafts, f"{path.name}: its content was not synced: {calls}"
    assert min(drafts) < named, f"{path.name}: its content was synced after it had its name"
    assert ("fsync", str(path.parent)) in calls[named:], f"{path.name}: its folder was not synced"


def test_a_created_file_is_synced_and_then_its_folder(tmp_path: Path, calls: Calls) -> None:
    write_file(tmp_path / "new", b"abc")
    assert calls == [("fsync", str(tmp_path / "new")), ("fsync", str(tmp_path))]


def test_the_guard_of_the_spool_and_its_copy_are_durable(tmp_path: Path, calls: Calls) -> None:
    Spool(tmp_path / "spool", min_free_mib=0).prepare()
    assert_durable(calls, tmp_path / "spool" / "spool.id", "link")
    assert_durable(calls, tmp_path / "spool.id", "link")


def test_the_key_of_the_chain_is_durable(tmp_path: Path, calls: Calls) -> None:
    load_or_create_key(tmp_path / "keys" / "audit.key")
    assert_durable(calls, tmp_path / "keys" / "audit.key", "link")


def test_a_new_database_shows_that_it_is_begun_before_its_key_exists_and_keeps_its_name(
    open_audit: Callable[..., Database], tmp_path: Path, calls: Calls
) -> None:
    open_audit()
    folder = ("fsync", str(tmp_path / "data"))
    assert folder in calls[: calls.index(("link", str(tmp_path / "keys" / "audit.key")))]
    assert folder in calls[calls.index(("rename", str(tmp_path / "data" / "audit.sqlite"))) :]


def test_the_exported_heads_are_durable(audit_database: Database, tmp_path: Path, calls: Calls) -> None:
    export_head(audit_database, tmp_path / "heads" / "audit.heads", now=datetime(2026, 3, 1, tzinfo=UTC))
    assert_durable(calls, tmp_path / "heads" / "audit.heads", "rename")


def test_a_failed_write_leaves_the_previous_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"previous")
    with pytest.raises(OSError, match="refused"), whole_file(path) as draft:
        draft.write_bytes(b"half")
        raise OSError("refused")
    assert path.read_bytes() == b"previous"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o600), (0o666, 0o640)])
def test_a_new_file_has_its_mode_within_the_umask(tmp_path: Path, mode: int, expected: int) -> None:
    previous = os.umask(0o027)
    try:
        with whole_file(tmp_path / "file", mode=mode) as draft:
            draft.write_bytes(b"abc")
    finally:
        os.umask(previous)
    assert (tmp_path / "file").stat().st_mode & 0o777 == expected


def test_a_draft_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(b"left by a killed process, and longer than the new content")
    with whole_file(tmp_path / "file", draft_suffix="part") as draft:
        draft.write_bytes(b"abc")
    assert (tmp_path / "file").read_bytes() == b"abc"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_file_that_exists_is_not_created_again(tmp_path: Path) -> None:
    create_once(tmp_path / "file", b"first")
    create_once(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
