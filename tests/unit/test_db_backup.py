"""Backups that are proven, and checks that find what is wrong."""

from __future__ import annotations

import shutil
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cxr.errors import StorageError
from db.engine import open_database
from db.events import EventKind, append_event
from db.schema.tables import Image
from db.sqlite.driver import sqlite3
from db.upkeep import integrity
from db.upkeep.backup import backup, list_backups
from db.upkeep.exported_heads import export_head, read_heads

NOW = datetime(2026, 1, 11, 2, 30, tzinfo=UTC)


@pytest.fixture
def site(audit_site: Any) -> Any:
    """Three images, scored, reports on their way."""
    audit_site.received = [audit_site.receive(seed) for seed in (1, 2, 3)]
    audit_site.score(destinations=["pacs"])
    return audit_site


@pytest.fixture
def folder(site: Any) -> Path:
    path: Path = site.settings.backup_dir
    return path


def tamper(path: Path, *statements: str) -> None:
    """Change the file as somebody would who has it, but not the key."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for name in ("event_no_update", "event_no_delete", "event_in_order"):
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)


def codes(site: Any, **options: Any) -> list[str]:
    return [fault.code for fault in integrity.check(site.database, site.spool, **options).faults]


def test_a_backup_holds_everything_and_is_named_by_its_time(site: Any, folder: Path) -> None:
    made = backup(site.database, folder, keep=7, now=NOW)
    assert made.path == folder / "audit-20260111T023000Z.sqlite"
    assert made.path.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(made.path)) as copy:
        assert copy.execute("SELECT count(*) FROM results").fetchone() == (6,)
        assert copy.execute("SELECT count(*) FROM events").fetchone() == (made.events,)


def test_a_backup_is_an_event(site: Any, folder: Path) -> None:
    made = backup(site.database, folder, keep=7, now=NOW)
    with closing(sqlite3.connect(site.database.path)) as live:
        kind, facts = live.execute("SELECT kind, facts FROM events ORDER BY event_id DESC LIMIT 1").fetchone()
    assert (kind, facts) == ("backup_made", f'{{"events":{made.events}}}')


def test_only_the_latest_stay_and_other_files_are_left_alone(site: Any, folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "audit-old.sqlite").write_text("mine")
    for day in range(5):
        made = backup(site.database, folder, keep=3, now=NOW + timedelta(days=day))
    assert made.removed == 1
    assert [path.name for path in list_backups(folder)] == [
        "audit-20260113T023000Z.sqlite",
        "audit-20260114T023000Z.sqlite",
        "audit-20260115T023000Z.sqlite",
    ]
    assert len(list(folder.iterdir())) == 5


def test_one_that_a_clock_ahead_has_named_outlives_no_newer_one(site: Any, folder: Path) -> None:
    """Else it would stay for years, with what retention and `forget` promise to be gone, and the latest would go."""
    ahead = backup(site.database, folder, keep=3, now=NOW + timedelta(days=9000))
    for day in range(4):
        made = backup(site.database, folder, keep=3, now=NOW + timedelta(days=day))
        assert made.path.exists()
        assert ahead.path.exists() is (day < 2)
    assert [path.name for path in list_backups(folder)] == [
        "audit-20260112T023000Z.sqlite",
        "audit-20260113T023000Z.sqlite",
        "audit-20260114T023000Z.sqlite",
    ]


def test_without_a_number_all_stay(site: Any, folder: Path) -> None:
    for day in range(3):
        backup(site.database, folder, keep=None, now=NOW + timedelta(days=day))
    assert len(list_backups(folder)) == 3


def test_backups_under_load_are_sound(site: Any, folder: Path) -> None:
    stop = threading.Event()
    written = threading.Semaphore(0)

    def write() -> None:
        seed = 100
        while not stop.is_set():
            seed += 1
            site.receive(seed)
            site.score()
            written.release()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for minute in range(4):
            written.acquire(timeout=60)
            backup(site.database, folder, keep=None, now=NOW + timedelta(minutes=minute))
    finally:
        stop.set()
        writer.join()
    assert len(list_backups(folder)) == 4


def test_an_unsound_copy_never_counts_and_removes_no_older_one(site: Any, folder: Path) -> None:
    for day in range(2):
        backup(site.database, folder, keep=2, now=NOW + timedelta(days=day))
    tamper(site.database.path, "UPDATE event SET facts = '{}' WHERE id = 2")
    with pytest.raises(StorageError, match="Event 2 "):
        backup(site.database, folder, keep=2, now=NOW + timedelta(days=2))
    assert [path.name for path in folder.iterdir()] == [path.name for path in list_backups(folder)]
    assert len(list_backups(folder)) == 2


def test_a_restored_backup_is_a_working_database(site: Any, folder: Path) -> None:
    made = backup(site.database, folder, keep=7, now=NOW)
    site.receive(4)
    site.database.dispose()
    for leftover in site.database.path.parent.glob("audit.sqlite-*"):
        leftover.unlink()
    shutil.copy(made.path, site.database.path)

    site.database = open_database(site.settings.database_path, site.settings.audit_key_path, create=False)

    assert codes(site) == []
    assert site.receive(4).outcome == "new"
    with site.database.read() as session:
        assert integrity.verify_chain(session).ok


# What a check finds


def test_nothing_is_wrong_with_a_new_site(site: Any) -> None:
    report = integrity.check(site.database, site.spool)
    assert report.ok
    assert report.files == 6  # three images, three reports
    with closing(sqlite3.connect(site.database.path)) as live:
        assert live.execute("SELECT count(*) FROM events").fetchone() == (report.events,)
    assert [path.name for path in site.database.path.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("UPDATE event SET facts = '{}' WHERE id = 3", 3),
        ("UPDATE event SET at = '2020-01-01 00:00:00.000000' WHERE id = 1", 1),
        ("DELETE FROM event WHERE id = 4", 4),
    ],
)
def test_a_changed_event_is_found_and_named(site: Any, statement: str, broken: int) -> None:
    tamper(site.database.path, statement)
    report = integrity.check(site.database, site.spool)
    assert [fault.code for fault in report.faults] == ["broken_chain"]
    assert f"Event {broken} " in report.faults[0].message
    assert integrity.verify(site.database).first_broken_id == broken


def test_a_row_changed_behind_the_events_is_found(site: Any) -> None:
    tamper(site.database.path, "UPDATE image SET patient_id = 'SOMEBODY' WHERE id = 1")
    report = integrity.check(site.database, site.spool)
    assert [fault.code for fault in report.faults] == ["changed_row"]
    assert "first image 1." in report.faults[0].message


def test_a_cut_tail_is_named_by_the_exported_head(site: Any) -> None:
    heads = site.settings.audit_heads_path
    head = export_head(site.database, heads, now=NOW)
    assert head is not None
    tamper(site.database.path, f"DELETE FROM event WHERE id > {head.id - 2}")
    assert codes(site) == ["changed_row"]  # the chain is whole; only rows show that something is gone
    assert codes(site, heads=read_heads(heads)) == ["broken_chain"]
    assert integrity.verify(site.database, heads=read_heads(heads)).first_broken_id == head.id - 1


def test_missing_files_are_found(site: Any) -> None:
    site.pixels(site.received[1]).unlink()
    report = integrity.check(site.database, site.spool)
    assert [(fault.code, fault.message.split(" is ")[0]) for fault in report.faults] == [
        ("missing_file", "The file of image 2")
    ]
    assert "sent again" in report.faults[0].message
    assert report.files == 5


def test_a_report_is_not_said_to_come_back_with_its_image(site: Any) -> None:
    reports = [name for name in site.spool.names() if name.startswith("reports/")]
    site.spool.remove(reports[0])
    (fault,) = integrity.check(site.database, site.spool).faults
    assert fault.message.startswith("The file of report")
    assert "sent again" not in fault.message


def test_a_dangling_reference_is_found(site: Any) -> None:
    tamper(site.database.path, "PRAGMA foreign_keys = OFF", "DELETE FROM package")
    assert set(codes(site)) == {"dangling_reference"}


def test_another_schema_is_found(site: Any) -> None:
    tamper(site.database.path, "UPDATE alembic_version SET version_num = '0000'")
    assert codes(site) == ["schema"]


def test_a_damaged_page_is_found(site: Any) -> None:
    for seed in range(10, 60):
        site.receive(seed)
    site.database.dispose()
    with site.database.path.open("r+b") as file:
        pages = site.database.path.stat().st_size // 4096
        for page in range(pages // 2, pages):
            file.seek(page * 4096)
            file.write(b"\xff" * 2000)
    found, _ = integrity.check_copy(site.database.path, b"k" * 32)
    assert [fault.code for fault in found] == ["damaged_file"]


def test_an_index_that_does_not_fit_its_table_is_found(site: Any) -> None:
    """Damage that no query of ours stumbles over."""
    with closing(sqlite3.connect(site.database.path, isolation_level=None)) as live:
        names = ("ix_image_patient_id", "ix_image_accession_number")
        pages = dict(live.execute("SELECT name, rootpage FROM sqlite_schema WHERE name IN (?, ?)", names))
        live.execute("PRAGMA writable_schema = ON")
        for name, other in (names, names[::-1]):
            live.execute("UPDATE sqlite_schema SET rootpage = ? WHERE name = ?", (pages[other], name))
    site.database.dispose()
    assert codes(site) == ["damaged_file"]


def test_what_is_no_database_is_found(tmp_path: Path) -> None:
    (tmp_path / "audit.sqlite").write_bytes(b"\xff" * 8192)
    found, events = integrity.check_copy(tmp_path / "audit.sqlite", b"k" * 32)
    assert ([fault.code for fault in found], events) == (["damaged_file"], 0)


def test_the_hourly_check_leaves_an_event(site: Any) -> None:
    site.pixels(site.received[0]).unlink()
    integrity.check_and_record(site.database, site.spool, now=NOW)
    with closing(sqlite3.connect(site.database.path)) as live:
        kind, facts = live.execute("SELECT kind, facts FROM events ORDER BY event_id DESC LIMIT 1").fetchone()
    assert kind == "integrity_checked"
    assert '"faults":1' in facts


def test_a_file_that_retention_is_removing_is_not_missing(audit_site: Any) -> None:
    """Retention removes a file before it commits; the check waits for that, and only then looks again."""
    image = audit_site.receive(1)
    found: list[integrity.CheckReport] = []
    check = threading.Thread(target=lambda: found.append(integrity.check(audit_site.database, audit_site.spool)))
    with audit_site.database.begin() as session:
        row = session.get_one(Image, image.image_id)
        audit_site.spool.remove(row.spool_name)
        check.start()
        check.join(2)
        row.spool_name, row.pixels_removed_at = None, audit_site.now
        append_event(session, EventKind.PIXELS_REMOVED, now=audit_site.now, image_id=row.id, facts={"why": "age"})
    check.join()
    assert [report.faults for report in found] == [()]
