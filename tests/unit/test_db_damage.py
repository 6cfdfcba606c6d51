"""A damaged database file: said by every command that is asked, with the way back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from app.health import check_database
from cxr.errors import DamagedDatabase
from db.sqlite import damage
from db.sqlite.driver import sqlite3
from db.upkeep import integrity

PAGE = 4096


def overwrite(path: Path, *pages: int) -> None:
    """Write nonsense over pages, as a failing disk does."""
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE)
            file.write(b"\xa5" * PAGE)


@pytest.fixture
def site(audit_site: Any) -> Any:
    for seed in range(1, 40):
        audit_site.receive(seed)
    audit_site.database.dispose()  # and with the last connection the write-ahead log is written back
    return audit_site


def leaves(path: Path, table: str) -> list[int]:
    """Return the pages below a table's root: those that its interior page points to."""
    connection = sqlite3.connect(path)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    connection.close()
    content = path.read_bytes()[(root - 1) * PAGE : root * PAGE]
    assert content[0] == 5, "an interior page of a table"
    cells = int.from_bytes(content[3:5], "big")
    offsets = [int.from_bytes(content[12 + 2 * cell : 14 + 2 * cell], "big") for cell in range(cells)]
    return [*(int.from_bytes(content[at : at + 4], "big") for at in offsets), int.from_bytes(content[8:12], "big")]


@pytest.fixture
def said(site: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cxr", "--set", f"data_dir={site.settings.data_dir}", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().out

    return run


def test_health_fails_and_the_check_names_the_table(site: Any, said: Callable[..., Any]) -> None:
    path = site.database.path
    sound = path.read_bytes()
    assert said("db", "check")[0] == 0
    overwrite(path, *leaves(path, "image"))
    with pytest.raises(DamagedDatabase, match=r"`cxr db check` names the part. Stop the service and restore a backup"):
        site.receive(40)
    assert damage.is_noted(path)
    assert not check_database(site.settings).is_well
    assert said("health", "listen")[0] == said("health", "work")[0] == 1
    code, text = said("db", "check")
    assert code == 1
    assert "damaged_file: " in text
    assert "table image" in text
    assert "restore a backup (docs/operations.md" in text
    assert "SYN1" not in text  # nothing of a row

    site.database.dispose()
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    path.write_bytes(sound)
    path.chmod(0o600)
    assert damage.is_noted(path)
    assert said("db", "check")[0] == 0
    assert not damage.is_noted(path)
    assert check_database(site.settings).is_well


def test_the_mark_of_a_damaged_database_is_its_owners(tmp_path: Path) -> None:
    damage.note(tmp_path / "audit.sqlite")
    (mark,) = tmp_path.iterdir()
    assert mark.stat().st_mode & 0o777 == 0o600
    damage.clear(tmp_path / "audit.sqlite")
    assert list(tmp_path.iterdir()) == []
    damage.clear(tmp_path / "audit.sqlite")


def test_a_damaged_page_that_nobody_has_read_yet_is_found_by_the_hourly_check(site: Any) -> None:
    first, *_ = leaves(site.database.path, "image")  # the oldest rows
    overwrite(site.database.path, first)
    assert check_database(site.settings).is_well
    found = integrity.check_and_record(site.database, site.spool, now=site.now)
    assert [fault.code for fault in found.faults] == ["damaged_file"]
    assert not check_database(site.settings).is_well


@pytest.mark.parametrize("pages", [(1,), (2,)])
def test_a_file_that_can_not_be_opened_is_a_fault_and_not_a_circle(
    site: Any, said: Callable[..., Any], pages: tuple[int, ...]
) -> None:
    overwrite(site.database.path, *pages)
    code, text = said("db", "check")
    assert code == 1
    assert "damaged_file: " in text
    assert "restore a backup" in text
    assert not check_database(site.settings).is_well
    assert said("health", "listen")[0] == 1
