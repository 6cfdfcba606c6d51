"""The audit database: opening, locks and transactions.

One connection writes at a time, in any journal mode: a write transaction takes the write lock at its start
(``BEGIN IMMEDIATE``), so it never fails half-way because of another writer. Reads use a second engine that takes
no write lock and can't write.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from sqlalchemy.orm import Session

from cxr.errors import DamagedDatabase, DatabaseUnavailable, LostDatabase, StorageError
from cxr.folder_sync import sync_folder
from db.disk import durable
from db.events import AUDIT_KEY, SUBJECTS, EventKind, append_event, is_own_key, load_or_create_key
from db.identifiers import AS_RECEIVED, IDENTIFIERS, Identifiers
from db.schema.records import FactValue
from db.schema.statements import DRIVER
from db.sqlite import damage, migrate
from db.sqlite.connection import BUSY_TIMEOUT_S, Journal, choose_journal, journal_mode, make_engine, translate_errors
from db.sqlite.driver import sqlite3
from db.sqlite.group_commit import GroupCommit

__all__ = [
    "AUDIT_KEY",
    "Database",
    "Journal",
    "Session",
    "journal_mode",
    "load_or_create_key",
    "open_database",
    "upgrade",
]

_SEALS_PER_EVENT = 200

OLDEST_SQLITE = (3, 35, 0)  # UPDATE ... RETURNING


class Database:
    """The audit database of one installation; thread-safe.

    Parameters
    ----------
    path
        The database file, with this version's schema (see `open_database`).
    audit_key
        Key of the event chain; stored in the ``info`` of every session.
    identifiers
        Form of the identifiers in new rows and in queries.
    """

    def __init__(self, path: Path, audit_key: bytes, identifiers: Identifiers = AS_RECEIVED) -> None:
        self.path = path
        self._info = {AUDIT_KEY: audit_key, IDENTIFIERS: identifiers}
        self._writing = make_engine(path, begin="BEGIN IMMEDIATE")
        self._reading = make_engine(path, begin="BEGIN", query_only=True)
        # SQLite lets waiting writers sleep up to 0.1 s between attempts; threads of one process wait for this
        # lock instead and continue at once.
        self._write_lock = threading.Lock()
        self._group_commit = GroupCommit(self._begin_writing, self._write_lock.release, BUSY_TIMEOUT_S)

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """Run one write transaction: commit at the end of the block, roll back if it raises.

        Yields
        ------
        Session
            Holds the write lock from the start: keep the block short.

        Raises
        ------
        SpoolFull
            If the disk is full.
        DatabaseUnavailable
            If another process or thread holds the write lock for longer than the busy timeout, or the disk fails.
        StorageError
            If SQLite refuses for another reason.
        """
        with self._translated():
            session = self._begin_writing()
            try:
                with session:
                    try:
                        yield session
                        session.commit()
                    except BaseException:
                        session.rollback()  # also after a commit that failed, which `close` alone leaves open
                        raise
            finally:
                self._write_lock.release()

    @contextmanager
    def begin_together(self) -> Iterator[Session]:
        """Run one block of a write transaction that threads share, so that all wait for one fsync.

        As `begin`: at the end of the block its changes are committed, and nothing is kept of a block that raises.
        Blocks of other threads run before and after it in the same session, and if the commit fails, it fails for all.
        """
        with self._translated(), self._group_commit.block() as session:
            yield session

    def _begin_writing(self) -> Session:
        """Take the write lock, before the first statement; the caller releases ``_write_lock`` in the end."""
        if not self._write_lock.acquire(timeout=BUSY_TIMEOUT_S):
            raise DatabaseUnavailable(
                f"The audit database was busy for {BUSY_TIMEOUT_S:.0f} s: another thread is writing."
            )
        session = Session(self._writing, info=dict(self._info))
        try:
            session.info[DRIVER] = session.connection().connection.driver_connection
        except BaseException:
            session.close()
            self._write_lock.release()
            raise
        return session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Run one read transaction: all statements see one state, and none can write.

        Yields
        ------
        Session
            Keep the block short: without a write-ahead log it delays commits.

        Raises
        ------
        StorageError
            If SQLite refuses.
        """
        with self._translated(), Session(self._reading, info=dict(self._info)) as session, session.begin():
            session.info[DRIVER] = session.connection().connection.driver_connection
            yield session

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translate_errors():
                yield
        except DamagedDatabase:
            damage.note(self.path)
            raise

    def dispose(self) -> None:
        """Close all connections that are not in use."""
        self._writing.dispose()
        self._reading.dispose()


def open_database(
    path: Path,
    key_path: Path,
    *,
    create: bool,
    now: datetime | None = None,
    identifiers: Identifiers = AS_RECEIVED,
    traces: Sequence[Path] = (),
) -> Database:
    """Open the audit database; create a new one atomically, also if several processes start at once.

    Parameters
    ----------
    path
        The database file; created files and folders are accessible to their owner only.
    key_path
        Key file of the event chain, created with a new database.
    create
        Whether to create a missing database.
    now
        Time of the first event of a new database, aware; None: by the clock.
    identifiers
        Form of the identifiers in new rows and in queries.
    traces
        Further files that exist only if the installation has had a database: the exported heads, the guard
        files of the spool. If the database is absent and one of these or the key exists, the database was
        lost, and no new one is created.

    Returns
    -------
    Database
        With this version's schema.

    Raises
    ------
    SchemaMismatch
        If the schema is older or newer, or the file is another program's.
    LostDatabase
        If the database is absent or empty, but traces of it exist.
    StorageError
        If there is no database and ``create`` is false, its key is missing or does not match, or SQLite is
        too old.
    """
    _check_library()
    if _is_absent(path) and not create:
        _refuse_absent(path, (key_path, *traces))
    durable.make_folder(path.parent)
    with _exclusive_lock(path):
        if _is_absent(path):
            _refuse_lost(path, (key_path, *traces))
            _create(path, key_path, now or datetime.now(UTC))
            key = _existing_key(key_path)
        else:
            key = _existing_key(key_path)
            _check(path, key)
            _choose_journal(path, key, now or datetime.now(UTC))
    return Database(path, key, identifiers)


def upgrade(path: Path, key_path: Path, *, now: datetime | None = None) -> tuple[str | None, str]:
    """Migrate an audit database to this version's schema, in one transaction.

    Parameters
    ----------
    path
        The database file.
    key_path
        Key file of its event chain.
    now
        Time of the event, aware; None: by the clock.

    Returns
    -------
    tuple[str | None, str]
        Revisions before and after.

    Raises
    ------
    SchemaMismatch
        If it belongs to a newer version or to another program.
    StorageError
        If there is no database, its key is missing, or SQLite refuses; then nothing was changed.
    """
    _check_library()
    if _is_absent(path):
        _refuse_absent(path, (key_path,))
    key = _existing_key(key_path)
    with _exclusive_lock(path), _setup_session(path, key) as session:
        before, after = migrate.migrate(session.connection())
        if before != after:
            _seal_existing_rows(session, now or datetime.now(UTC))
            append_event(session, EventKind.SCHEMA_UPGRADED, now=now or datetime.now(UTC))
    return before, after


def _seal_existing_rows(session: Session, now: datetime) -> None:
    """Seal every row in its present state; earlier changes can't be detected."""
    for subject, (table, _) in SUBJECTS.items():
        last_id = 0
        while numbers := [
            number
            for (number,) in session.connection().exec_driver_sql(
                f"SELECT id FROM {table} WHERE id > ? ORDER BY id LIMIT ?", (last_id, _SEALS_PER_EVENT)
            )
        ]:
            seals = [(subject, number) for number in numbers]
            append_event(session, EventKind.ROWS_SEALED, now=now, facts={"rows": len(seals)}, seals=seals)
            last_id = numbers[-1]


def _check_library() -> None:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StorageError(
            f"Python uses SQLite {sqlite3.sqlite_version}; 3.35 or newer is needed: use another build of Python."
        )


def _existing_key(key_path: Path) -> bytes:
    if not key_path.exists():
        raise StorageError(
            "The audit database is there, but the key of its event chain is not: restore the key file "
            "from your copy, or check audit.key_file."
        )
    return load_or_create_key(key_path)


@contextmanager
def _exclusive_lock(path: Path) -> Iterator[None]:
    """Lock the database against other processes that open, create or upgrade it; the kernel releases the lock."""
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, durable.FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _setup_session(path: Path, key: bytes) -> Iterator[Session]:
    engine = make_engine(path, begin="BEGIN IMMEDIATE", foreign_keys=False)
    try:
        with translate_errors(), Session(engine, info={AUDIT_KEY: key}) as session, session.begin():
            yield session
    finally:
        engine.dispose()


def _is_absent(path: Path) -> bool:
    return not path.exists() or path.stat().st_size == 0


def _refuse_absent(path: Path, traces: Sequence[Path]) -> NoReturn:
    _refuse_lost(path, traces)
    raise StorageError(
        f"There is no audit database in {path.parent}: start the service once, or check data_dir and --config."
    )


def _refuse_lost(path: Path, traces: Sequence[Path]) -> None:
    """Refuse to create a database in place of a lost one.

    A draft shows that a first start was killed; it may be repeated.

    Raises
    ------
    LostDatabase
        If traces of an earlier database exist.
    """
    if _draft_of(path).exists():
        return
    journals = (path.with_name(f"{path.name}{end}") for end in ("-wal", "-journal"))
    existing = [trace for trace in (*traces, *journals) if trace.exists()]
    if existing:
        raise LostDatabase(
            f"The audit database {path} is {'empty' if path.exists() else 'gone'}, but {existing[0]} shows that there "
            "was one: restore it from a backup (docs/operations.md, Back-up and restore). To begin anew without what "
            f"it held, move these away first: {', '.join(map(str, existing))}."
        )


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _create(path: Path, key_path: Path, now: datetime) -> None:
    """Create the database under a draft name and its key; a draft marks an interrupted creation."""
    draft = _draft_of(path)
    for leftover in (draft, draft.with_name(f"{draft.name}-journal")):
        leftover.unlink(missing_ok=True)
    os.close(durable.create_file(draft))  # SQLite gives its journals the same mode
    sync_folder(path.parent)
    key = load_or_create_key(key_path)
    with _setup_session(draft, key) as session:
        migrate.migrate(session.connection())
        append_event(session, EventKind.DATABASE_CREATED, now=now)
    draft.rename(path)
    sync_folder(path.parent)
    choose_journal(path)


def _choose_journal(path: Path, key: bytes, now: datetime) -> None:
    journal = choose_journal(path)
    if journal is not None:
        major, minor, patch = sqlite3.sqlite_version_info[:3]
        number = major * 1_000_000 + minor * 1000 + patch  # as SQLITE_VERSION_NUMBER
        facts: dict[str, FactValue] = {"journal": journal, "sqlite": number}
        with _setup_session(path, key) as session:
            append_event(session, EventKind.JOURNAL_CHANGED, now=now, facts=facts)


def _check(path: Path, key: bytes) -> None:
    engine = make_engine(path, begin="BEGIN", query_only=True)
    try:
        with translate_errors(), Session(engine, info={AUDIT_KEY: key}) as session, session.begin():
            migrate.check_revision(migrate.revision_of(session.connection()), migrate.revisions())
            if not is_own_key(session):
                raise StorageError(
                    "The key does not fit the audit database's first event: restore the key file that was made "
                    "with this database, or check audit.key_file and data_dir."
                )
    finally:
        engine.dispose()
