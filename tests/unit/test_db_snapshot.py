"""The snapshot: whole, current, and read for as long as one likes without holding anybody up."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cxr.errors import SpoolFull, StorageError
from db.engine import Database
from db.schema.views import VIEWS
from db.sqlite import copy_database
from db.sqlite.driver import sqlite3
from db.upkeep.snapshot import refresh_snapshot


@pytest.fixture
def target(audit_site: Any) -> Path:
    path: Path = audit_site.settings.snapshot_path
    return path


@pytest.fixture(params=["chosen", "delete"])
def journal_site(audit_site: Any, request: pytest.FixtureRequest) -> Any:
    """The site with the journal that this SQLite library allows, and with a rollback journal."""
    if request.param == "delete":
        audit_site.database.dispose()
        with closing(sqlite3.connect(audit_site.database.path)) as connection:
            assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    return audit_site


def query(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def test_it_is_made_anew_only_if_something_happened(audit_site: Any, target: Path) -> None:
    assert refresh_snapshot(audit_site.database, target)
    made = target.stat().st_ino
    assert not refresh_snapshot(audit_site.database, target)
    assert target.stat().st_ino == made
    audit_site.receive(1)
    assert refresh_snapshot(audit_site.database, target)
    assert query(target, "SELECT count(*) FROM images") == [(1,)]
    assert refresh_snapshot(audit_site.database, target, always=True)


def test_a_schema_that_changed_is_something_that_happened(audit_site: Any, target: Path) -> None:
    refresh_snapshot(audit_site.database, target)
    with closing(sqlite3.connect(target, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    assert refresh_snapshot(audit_site.database, target)


def test_a_damaged_snapshot_is_replaced(audit_site: Any, target: Path) -> None:
    target.write_bytes(b"not a database")
    assert refresh_snapshot(audit_site.database, target)
    assert query(target, "SELECT count(*) FROM images") == [(0,)]


def test_it_is_one_private_file_with_every_view(audit_site: Any, target: Path) -> None:
    audit_site.receive(1)
    audit_site.score()
    refresh_snapshot(audit_site.database, target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(path.name for path in target.parent.glob("*audit-read*")) == [target.name]
    assert query(target, "PRAGMA integrity_check") == [("ok",)]
    assert query(target, "PRAGMA journal_mode") == [("delete",)]
    for view in VIEWS:
        query(target, f"SELECT * FROM {view}")
    assert query(target, "SELECT count(*) FROM results") == [(2,)]


def test_the_sqlite3_command_reads_it(audit_site: Any, target: Path, require_peer: Any) -> None:
    command = require_peer("sqlite3")
    audit_site.receive(1)
    refresh_snapshot(audit_site.database, target)
    done = subprocess.run(
        [command, str(target), "SELECT state, count(*) FROM images GROUP BY state"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "queued|1\n"), done.stderr


def hold_a_read(audit_site: Any, target: Path, *, seconds: float) -> None:
    """Keep a read open on the snapshot in another process, as a notebook does, while the service goes on."""
    refresh_snapshot(audit_site.database, target)
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sqlite3, sys\n"
            "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "connection.execute('BEGIN')\n"
            "rows = connection.execute('SELECT * FROM events')\n"
            "rows.fetchone(), print('reading', flush=True)\n"
            "sys.stdin.read()\n"
            "print(len(rows.fetchall()))\n",
            str(target),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    before = query(target, "SELECT count(*) FROM events")[0][0]
    slowest, seed, end = 0.0, 0, time.monotonic() + seconds
    while seed < 20 or time.monotonic() < end:
        seed += 1
        begin = time.monotonic()
        audit_site.receive(seed)
        slowest = max(slowest, time.monotonic() - begin)
        assert refresh_snapshot(audit_site.database, target)
        assert query(target, "SELECT count(*) FROM images") == [(seed,)]
        time.sleep(min(seconds / 20, 0.2))
    rest, _ = reader.communicate("", timeout=30)
    assert reader.returncode == 0
    assert int(rest) == before - 1  # the reader kept the state that it began with
    # SQLite would have let a writer wait for 30 s; an idle machine needs some milliseconds.
    assert slowest < 10


def test_a_reader_that_stays_holds_up_neither_receipt_nor_refresh(audit_site: Any, target: Path) -> None:
    hold_a_read(audit_site, target, seconds=0)


@pytest.mark.long
def test_a_reader_that_stays_for_a_minute_holds_up_neither_receipt_nor_refresh(audit_site: Any, target: Path) -> None:
    hold_a_read(audit_site, target, seconds=60)


def test_copies_are_whole_while_others_write(journal_site: Any, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small slices the copy is overtaken by writers."""
    monkeypatch.setattr(copy_database, "_SLICE_PAGES", 16)
    for seed in range(30):
        journal_site.receive(seed)
    stop = threading.Event()
    written = threading.Semaphore(0)

    def write() -> None:
        seed = 1000
        while not stop.is_set():
            seed += 1
            journal_site.receive(seed)
            written.release()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            written.acquire(timeout=60)
            assert refresh_snapshot(journal_site.database, target, always=True)
            assert query(target, "PRAGMA integrity_check") == [("ok",)]
            images, receipts = query(
                target, "SELECT (SELECT count(*) FROM images), (SELECT count(*) FROM events WHERE kind = 'received')"
            )[0]
            assert images == receipts >= 30
    finally:
        stop.set()
        writer.join()
    assert [path for path in target.parent.iterdir() if path.name.startswith(".audit-read")] == []


def test_writers_that_never_rest_do_not_keep_a_copy_from_ending(
    journal_site: Any, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_database, "_SLICE_PAGES", 2)
    seeds = iter(range(50))  # StopIteration if the copy still starts again then

    def overtake(_done: int, _total: int) -> None:
        journal_site.receive(next(seeds))

    copy_database.copy_database(journal_site.database.path, target, progress=overtake)
    assert query(target, "PRAGMA integrity_check") == [("ok",)]


def test_with_a_rollback_journal_a_copy_is_of_one_state_beside_a_process_that_writes(tmp_path: Path) -> None:
    """The writer moves a sum between the pages of a large table: any mixture of two states has another sum."""
    source, target = tmp_path / "source.sqlite", tmp_path / "copy.sqlite"
    script = """
import random, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
c.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x INTEGER, filler TEXT)")
c.execute("BEGIN")
c.executemany("INSERT INTO t (x, filler) VALUES (0, ?)", (("x" * 1000,) for _ in range(20_000)))
c.execute("COMMIT")
c.execute("PRAGMA synchronous = OFF")
print("ready", flush=True)
while True:
    c.execute("BEGIN IMMEDIATE")
    for change in (1, -1) * 5:
        c.execute("UPDATE t SET x = x + ? WHERE id = ?", (change, random.randint(1, 20_000)))
    c.execute("COMMIT")
"""
    with subprocess.Popen([sys.executable, "-c", script, str(source)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        try:
            states = set()
            for _ in range(5):
                copy_database.copy_database(source, target)
                assert query(target, "PRAGMA integrity_check") == [("ok",)]
                assert query(target, "SELECT sum(x) FROM t") == [(0,)]
                states.update(query(target, "SELECT sum(x * id) FROM t"))
            assert writer.poll() is None
        finally:
            writer.kill()
    assert len(states) == 5  # it did write meanwhile


def test_with_a_rollback_journal_a_commit_waits_for_a_slice_not_for_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_database, "_SLICE_PAGES", 64)
    source, target = tmp_path / "source.sqlite", tmp_path / "copy.sqlite"
    with closing(sqlite3.connect(source, isolation_level=None, timeout=0.5)) as live:
        live.execute("PRAGMA synchronous = OFF")
        live.execute("CREATE TABLE t (x)")
        live.executemany("INSERT INTO t VALUES (?)", (("x" * 3000,) for _ in range(2000)))
        commits = []

        def commit(done: int, total: int) -> None:
            live.execute("INSERT INTO t VALUES (1)")  # SQLITE_BUSY while a lock is kept
            commits.append((done, total))

        copy_database.copy_database(source, target, progress=commit)
    assert len(commits) > 20
    assert query(target, "SELECT count(*) FROM t") == [(2000 + len(commits),)]


def test_a_copying_process_that_is_killed_leaves_the_old_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_database, "_SLICE_PAGES", 64)
    source, target = tmp_path / "odd %23 name?.sqlite", tmp_path / "copy.sqlite"
    with closing(sqlite3.connect(source)) as live, live:
        live.execute("CREATE TABLE t (x)")
        live.executemany("INSERT INTO t VALUES (?)", (("x" * 3000,) for _ in range(1000)))
    copy_database.copy_database(source, target)
    before = target.read_bytes()

    def kill(_done: int, _total: int) -> None:
        for child in Path("/proc/self/task").glob("*/children"):
            for pid in child.read_text().split():
                if b"db.sqlite.page_copy" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(int(pid), signal.SIGKILL)

    with pytest.raises(StorageError, match="ended with code -9"):
        copy_database.copy_database(source, target, progress=kill)
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.sqlite", source.name]


def test_with_a_rollback_journal_a_copy_of_a_damaged_file_names_the_restore(tmp_path: Path) -> None:
    source = tmp_path / "source.sqlite"
    source.write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="restore a backup"):
        copy_database.copy_database(source, tmp_path / "copy.sqlite")
    assert [path.name for path in tmp_path.iterdir()] == ["source.sqlite"]


def test_with_a_write_ahead_log_a_write_in_between_starts_nothing_again(
    audit_site: Any, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if query(audit_site.database.path, "PRAGMA journal_mode") != [("wal",)]:
        pytest.skip("this SQLite library is too old for a write-ahead log without the reset defect")
    monkeypatch.setattr(copy_database, "_SLICE_PAGES", 2)
    seeds, copied = iter(range(1000)), list[int]()

    def overtake(done: int, _total: int) -> None:
        copied.append(done)
        audit_site.receive(next(seeds))

    copy_database.copy_database(audit_site.database.path, target, progress=overtake)
    assert copied == sorted(set(copied))
    assert len(copied) > 5
    assert query(target, "SELECT count(*) FROM images") == [(0,)]  # as it was when the copy began
    assert query(target, "PRAGMA integrity_check") == [("ok",)]


def test_progress_ends_with_everything(audit_site: Any, target: Path) -> None:
    seen: list[tuple[int, int]] = []
    refresh_snapshot(audit_site.database, target, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0


def test_a_write_ahead_log_is_copied_with_its_latest_rows_into_one_file(tmp_path: Path) -> None:
    source, target = tmp_path / "source.sqlite", tmp_path / "copy.sqlite"
    with closing(sqlite3.connect(source, isolation_level=None)) as live:
        live.execute("PRAGMA journal_mode = WAL")
        live.execute("CREATE TABLE t (x)")
        live.execute("INSERT INTO t VALUES (1)")
        assert source.with_name("source.sqlite-wal").stat().st_size > 0
        copy_database.copy_database(source, target)
    assert query(target, "SELECT x FROM t") == [(1,)]
    assert query(target, "PRAGMA journal_mode") == [("delete",)]
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy.sqlite"]


def test_what_a_killed_writer_left_is_rolled_back_not_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "source.sqlite", tmp_path / "copy.sqlite"
    script = (
        "import os, signal, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('CREATE TABLE t (x)')\n"
        "c.execute('PRAGMA cache_size = 1')\n"
        "c.execute('BEGIN')\n"
        "c.executemany('INSERT INTO t VALUES (?)', (('x' * 3000,) for _ in range(200)))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(source)]).returncode == -9
    assert source.with_name("source.sqlite-journal").stat().st_size > 0
    copy_database.copy_database(source, target)
    assert query(target, "SELECT count(*) FROM t") == [(0,)]


def test_no_database_is_said_and_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cxr serve"):
        refresh_snapshot(Database(tmp_path / "audit.sqlite", b"k" * 32), tmp_path / "copy.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_drafts_of_killed_copies_are_removed_but_not_those_of_running_ones(audit_site: Any, target: Path) -> None:
    old, young = target.with_name(".audit-read.sqlite.old"), target.with_name(".audit-read.sqlite.young")
    old.touch()
    young.touch()
    os.utime(old, (1, 1))
    refresh_snapshot(audit_site.database, target)
    assert (old.exists(), young.exists()) == (False, True)


def test_a_full_disk_leaves_the_old_snapshot(journal_site: Any, target: Path) -> None:
    refresh_snapshot(journal_site.database, target)
    journal_site.receive(1)
    script = """
import resource, sys
from pathlib import Path
from config.settings import Settings
from cxr.errors import CxrError
from db.engine import open_database
from db.upkeep.snapshot import refresh_snapshot
settings = Settings(data_dir=Path(sys.argv[1]))
database = open_database(settings.database_path, settings.audit_key_path, create=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    refresh_snapshot(database, settings.snapshot_path)
except CxrError as error:
    print(type(error).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(journal_site.settings.data_dir)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout in {"SpoolFull\n", "StorageError\n"}
    assert query(target, "SELECT count(*) FROM images") == [(0,)]
    assert [path for path in target.parent.iterdir() if path.name.startswith(".audit-read")] == []


def test_errors_of_sqlite_are_ours_and_carry_no_text_of_theirs() -> None:
    assert isinstance(copy_database.translate(_error("SQLITE_FULL")), SpoolFull)
    assert isinstance(copy_database.translate(_error("SQLITE_CORRUPT")), StorageError)
    assert "secret" not in str(copy_database.translate(_error("SQLITE_CORRUPT")))


def _error(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("secret")
    error.sqlite_errorname = name
    return error
