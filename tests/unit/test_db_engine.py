"""Opening the audit database: journal, locks, file modes, processes that start at once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from cxr.errors import LostDatabase, SchemaMismatch, StorageError
from db import engine
from db.engine import Database, journal_mode, open_database
from db.events import EventKind, append_event, load_or_create_key, verify_chain
from db.schema.tables import Lease
from db.sqlite.connection import choose_journal
from db.sqlite.driver import sqlite3

EXPECTED = journal_mode(sqlite3.sqlite_version_info)


@pytest.mark.parametrize("version", [(3, 51, 3), (3, 52, 0), (4, 0, 0), (3, 50, 7), (3, 50, 9), (3, 44, 6), (3, 44, 7)])
def test_write_ahead_log_where_the_defect_is_fixed(version: tuple[int, ...]) -> None:
    assert journal_mode(version) == ("wal", "full")


@pytest.mark.parametrize(
    "version", [(3, 40, 1), (3, 44, 5), (3, 45, 0), (3, 49, 9), (3, 50, 6), (3, 51, 0), (3, 51, 2), (3, 7, 0)]
)
def test_rollback_journal_everywhere_else(version: tuple[int, ...]) -> None:
    assert journal_mode(version) == ("delete", "extra")


@pytest.mark.parametrize("way", ["begin", "read"])
def test_connections_are_durable_and_checked(audit_database: Database, way: str) -> None:
    with getattr(audit_database, way)() as session:
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "query_only")
        found = [session.execute(text(f"PRAGMA {name}")).scalar_one() for name in pragmas]
    synchronous = {"full": 2, "extra": 3}[EXPECTED.synchronous]
    assert found == [EXPECTED.mode, synchronous, 1, 30000, int(way == "read")]


def test_a_file_with_another_journal_is_switched(open_audit: Callable[..., Database]) -> None:
    path = open_audit().path
    other = {"delete": "wal", "wal": "delete"}[EXPECTED.mode]
    with sqlite3.connect(path) as connection:
        assert connection.execute(f"PRAGMA journal_mode = {other}").fetchone() == (other,)
    connection.close()
    for _ in range(2):
        with open_audit().read() as session:
            assert session.execute(text("PRAGMA journal_mode")).scalar_one() == EXPECTED.mode
            found = session.execute(text("SELECT kind, facts FROM event ORDER BY id")).all()
            assert [row.kind for row in found] == ["database_created", "journal_changed"]
            assert f'"journal":"{EXPECTED.mode}"' in found[1].facts
            assert verify_chain(session).ok


def test_files_are_their_owners_only(open_audit: Callable[..., Database], tmp_path: Path, noon: datetime) -> None:
    old = os.umask(0)
    try:
        database = open_audit(tmp_path / "new")
        with database.begin() as session:
            append_event(session, EventKind.SERVICE_STARTED, now=noon)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")}
    finally:
        os.umask(old)
    assert {"data": 0o700, "keys": 0o700, "audit.sqlite": 0o600, "audit.key": 0o600}.items() <= modes.items()
    assert {mode for name, mode in modes.items() if name.startswith("audit")} == {0o600}  # the journal as well
    assert any(name.endswith(("-journal", "-wal")) for name in modes)


def test_a_write_transaction_takes_the_lock_at_once(audit_database: Database) -> None:
    with audit_database.begin():
        other = sqlite3.connect(audit_database.path, timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


def test_a_writer_asks_for_a_lock_of_another_process_every_few_milliseconds(
    audit_database: Database, noon: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite itself would sleep up to 0.1 s, while the other process takes the lock again and again."""
    other = sqlite3.connect(audit_database.path, timeout=0, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 9:
            other.execute("ROLLBACK")

    monkeypatch.setattr("db.sqlite.connection.time.sleep", pause)
    with audit_database.begin() as session:
        append_event(session, EventKind.SERVICE_STARTED, now=noon)
    other.close()
    assert len(pauses) == 9
    assert max(pauses) < 0.005


def test_a_read_takes_no_write_lock_and_sees_one_state(audit_database: Database, noon: datetime) -> None:
    with audit_database.read() as session:
        before = verify_chain(session).events
        other = sqlite3.connect(audit_database.path, timeout=0, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
        other.close()
        assert verify_chain(session).events == before


def test_a_read_can_not_write(audit_database: Database, noon: datetime) -> None:
    with pytest.raises(StorageError, match="SQLITE_READONLY"), audit_database.read() as session:
        append_event(session, EventKind.SERVICE_STARTED, now=noon)


def test_a_block_that_raises_leaves_nothing(audit_database: Database, noon: datetime) -> None:
    with pytest.raises(KeyError), audit_database.begin() as session:
        append_event(session, EventKind.SERVICE_STARTED, now=noon)
        raise KeyError
    with audit_database.read() as session:
        assert verify_chain(session).events == 1
    with audit_database.begin() as session:  # and the lock is free again
        append_event(session, EventKind.SERVICE_STARTED, now=noon)


def test_errors_carry_no_values(audit_database: Database, noon: datetime) -> None:
    def insert() -> None:
        with audit_database.begin() as session:
            session.add_all(Lease(name="canary-name", holder=holder, expires_at=noon) for holder in "ab")

    with pytest.raises(StorageError) as caught:
        insert()
    error: BaseException | None = caught.value
    while error is not None:
        assert "canary" not in str(error)
        error = error.__cause__


def test_foreign_keys_are_enforced(audit_database: Database, noon: datetime) -> None:
    with pytest.raises(StorageError, match="SQLITE_CONSTRAINT"), audit_database.begin() as session:
        session.execute(text("INSERT INTO job_report (job_id, report_id) VALUES (7, 7)"))


def test_a_commit_that_fails_leaves_nothing_open(audit_database: Database, noon: datetime) -> None:
    with pytest.raises(StorageError, match="SQLITE_CONSTRAINT"), audit_database.begin() as session:
        session.execute(text("PRAGMA defer_foreign_keys = ON"))  # refused by the commit, not by the statement
        session.execute(text("INSERT INTO job_report (job_id, report_id) VALUES (7, 7)"))
    other = sqlite3.connect(audit_database.path, timeout=0, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # the lock is free
    other.close()


def test_a_naive_time_is_refused(audit_database: Database, noon: datetime) -> None:
    with pytest.raises(StorageError), audit_database.begin() as session:
        session.add(Lease(name="x", holder="y", expires_at=noon.replace(tzinfo=None)))


def test_threads_write_one_after_the_other(audit_database: Database, noon: datetime) -> None:
    def write() -> None:
        for _ in range(10):
            with audit_database.begin() as session:
                append_event(session, EventKind.SERVICE_STARTED, now=noon)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with audit_database.read() as session:
        report = verify_chain(session)
    assert (report.ok, report.events) == (True, 81)


STARTER = """
import sys, time
from pathlib import Path
from db.events.log import verify_chain
from db.engine import open_database
go = Path(sys.argv[1]) / "go"
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
database = open_database(Path(sys.argv[1]) / "data/audit.sqlite", Path(sys.argv[1]) / "keys/audit.key", create=True)
with database.read() as session:
    report = verify_chain(session)
print(report.ok, report.events, report.head.hash)
"""


def test_processes_that_start_at_once_share_one_database(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", STARTER, str(tmp_path)]
    starters = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for starter in starters:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    said = {starter.communicate(timeout=60)[0] for starter in starters}
    assert [starter.returncode for starter in starters] == [0] * 4
    assert len(said) == 1  # the same first event, under the same key
    assert said.pop().startswith("True 1 ")


def test_there_is_nothing_to_open(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no audit database"):
        open_database(tmp_path / "data" / "audit.sqlite", tmp_path / "audit.key", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "audit.sqlite").write_bytes(b"not a database" * 100)
    load_or_create_key(tmp_path / "audit.key")
    with pytest.raises(StorageError, match="SQLITE_NOTADB"):
        open_database(tmp_path / "audit.sqlite", tmp_path / "audit.key", create=True)


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    load_or_create_key(tmp_path / "audit.key")
    before = path.read_bytes()
    with pytest.raises(SchemaMismatch, match="not an audit database"):
        open_database(path, tmp_path / "audit.key", create=True)
    assert path.read_bytes() == before


def test_an_empty_file_without_any_trace_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "audit.sqlite").touch()
    database = open_database(tmp_path / "audit.sqlite", tmp_path / "audit.key", create=True)
    with database.read() as session:
        assert verify_chain(session).ok
    database.dispose()


@pytest.mark.parametrize("loss", ["gone", "empty"])
@pytest.mark.parametrize("trace", ["audit.key", "audit.heads", "spool.id", "audit.sqlite-wal", "audit.sqlite-journal"])
@pytest.mark.parametrize("create", [True, False])
def test_a_lost_database_is_not_replaced(tmp_path: Path, loss: str, trace: str, create: bool) -> None:
    database, key = tmp_path / "audit.sqlite", tmp_path / "audit.key"
    if loss == "empty":
        database.touch()
    if trace == "audit.key":
        load_or_create_key(key)
    else:
        (tmp_path / trace).write_bytes(b"x")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(LostDatabase, match=f"{trace} shows that there was one: restore it from a backup"):
        open_database(database, key, create=create, traces=(tmp_path / "audit.heads", tmp_path / "spool.id"))
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")) == before


KILLED = """
import os, sys
from pathlib import Path
from db.disk import durable
from db import engine
from db.sqlite import migrate
folder, step = Path(sys.argv[1]), sys.argv[2]
target = {"key": "load_or_create_key", "schema": "append_event"}[step]
setattr(engine, target, lambda *args, **kwargs: os._exit(9))
engine.open_database(folder / "audit.sqlite", folder / "audit.key", create=True)
"""


@pytest.mark.parametrize("step", ["key", "schema"])
def test_a_first_start_that_was_killed_begins_again(tmp_path: Path, step: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), step], check=False, timeout=60)
    assert done.returncode == 9
    assert (tmp_path / "audit.key").exists() == (step == "schema")
    database = open_database(tmp_path / "audit.sqlite", tmp_path / "audit.key", create=True)
    with database.read() as session:
        assert (verify_chain(session).ok, verify_chain(session).events) == (True, 1)
    database.dispose()
    assert [path.name for path in tmp_path.iterdir() if ".new" in path.name] == []


def test_a_lost_key_is_not_replaced(open_audit: Callable[..., Database], tmp_path: Path) -> None:
    open_audit()
    key = tmp_path / "keys" / "audit.key"
    kept = key.read_bytes()
    key.unlink()
    with pytest.raises(StorageError, match="restore the key"):
        open_audit()
    assert not key.exists()
    load_or_create_key(key)
    with pytest.raises(StorageError, match="does not fit"):
        open_audit()
    key.write_bytes(kept)
    open_audit()


def test_an_old_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "OLDEST_SQLITE", (99, 0, 0))
    with pytest.raises(StorageError, match=sqlite3.sqlite_version):
        open_database(tmp_path / "audit.sqlite", tmp_path / "audit.key", create=True)


def test_the_journal_is_not_switched_under_a_running_service(audit_database: Database) -> None:
    other = {"delete": "wal", "wal": "delete"}[EXPECTED.mode]
    with sqlite3.connect(audit_database.path) as connection:
        connection.execute(f"PRAGMA journal_mode = {other}")
        reader = sqlite3.connect(audit_database.path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM event").fetchone()
        if EXPECTED.mode == "delete":  # leaving the write-ahead log needs the file for oneself
            monkey = pytest.MonkeyPatch()
            monkey.setattr("db.sqlite.connection.BUSY_TIMEOUT_S", 0.1)
            with pytest.raises(StorageError, match="stop every process"):
                choose_journal(audit_database.path)
            monkey.undo()
        reader.close()
    connection.close()


@pytest.mark.parametrize("content", ["", "00" * 31, "zz" * 32, "Schlüssel"])
def test_a_damaged_key(tmp_path: Path, content: str) -> None:
    path = tmp_path / "audit.key"
    path.write_text(content, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(StorageError, match="key"):
        load_or_create_key(path)


def test_a_key_open_to_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.key"
    first = load_or_create_key(path)
    assert load_or_create_key(path) == first
    assert len(first) == 32
    path.chmod(0o640)
    with pytest.raises(StorageError, match="chmod 600"):
        load_or_create_key(path)
    assert [each.name for each in tmp_path.iterdir()] == ["audit.key"]  # no draft is left
