"""Connections to SQLite: journal, locks, and errors without values."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    UnaryExpression,
    create_engine,
    event,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.operators import custom_op

from cxr.errors import DamagedDatabase, DatabaseUnavailable, SpoolFull, StorageError
from db.disk import MOUNTS, shared_file_system
from db.sqlite.driver import DRIVER, sqlite3

BUSY_TIMEOUT_S = 30.0
# Between attempts to take the write lock: a small transaction takes one to three milliseconds.
_FIRST_PAUSE_S = 0.0005
_LONGEST_PAUSE_S = 0.004

# Transient: another process locks the database, or its disk refuses.
_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")

# The file is damaged or no database: restore a backup.
MALFORMED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
RESTORE = "Stop the service and restore a backup (docs/operations.md, Back-up and restore)."

Value = TypeVar("Value")


class Journal(NamedTuple):
    """Journal settings that make commits durable."""

    mode: str
    synchronous: str


_ROLLBACK = Journal("delete", "extra")


def journal_mode(version: tuple[int, ...]) -> Journal:
    """Choose the journal for a version of the SQLite library.

    The write-ahead log is faster, but in versions without the fix a checkpoint concurrent with a reset of the
    log can lose committed rows (https://sqlite.org/wal.html#walresetbug).

    Parameters
    ----------
    version
        As ``sqlite3.sqlite_version_info``.

    Returns
    -------
    Journal
        WAL with ``synchronous=FULL`` where the defect is fixed, else DELETE with ``EXTRA``; with
        both, commits survive a power loss.
    """
    fixed = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    return Journal("wal", "full") if fixed else _ROLLBACK


def journal_of(path: Path, version: tuple[int, ...] = sqlite3.sqlite_version_info, *, mounts: Path = MOUNTS) -> Journal:
    """Choose the journal of a database file: as `journal_mode`, but no write-ahead log on a shared file system."""
    return journal_mode(version) if shared_file_system(path, mounts=mounts) is None else _ROLLBACK


def describe(path: Path) -> str:
    """Return the SQLite library and journal of a database, as text for an operator."""
    shared = shared_file_system(path)
    why = "" if shared is None else f", because {path.parent} is on {shared}, which other machines may write to"
    return f"{DRIVER}, journal {journal_of(path).mode}{why}"


def make_engine(path: Path, *, begin: str, query_only: bool = False, foreign_keys: bool = True) -> Engine:
    """Create an engine whose transactions start with the given BEGIN.

    Parameters
    ----------
    path
        The database file.
    begin
        ``BEGIN IMMEDIATE`` to take the write lock at once, ``BEGIN`` to take it when needed.
    query_only
        Refuse every write on these connections.
    foreign_keys
        Enforce foreign keys; a migration that copies a table checks them at its end instead.

    Returns
    -------
    Engine
        Hides the parameters of statements in errors: they are patient data.
    """
    timeout_s = BUSY_TIMEOUT_S
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        module=sqlite3,
        connect_args={"timeout": timeout_s},
        hide_parameters=True,
    )
    synchronous = journal_of(path).synchronous

    def on_connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # sqlite3 itself begins no transactions
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA foreign_keys = {int(foreign_keys)}")
        connection.execute("PRAGMA secure_delete = ON")  # overwrite deleted content
        connection.execute(f"PRAGMA query_only = {int(query_only)}")
        connection.execute("PRAGMA automatic_index = OFF")  # building one would read the whole table

    def on_begin(connection: Connection) -> None:
        _begin(cast("sqlite3.Connection", connection.connection.driver_connection), begin, timeout_s)

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


def _begin(connection: sqlite3.Connection, begin: str, timeout_s: float) -> None:
    """Begin a transaction, and try again while another process holds the write lock.

    SQLite would sleep longer and longer between its attempts, up to 0.1 s, while another process that writes all the
    time takes the lock again within a millisecond.

    Raises
    ------
    sqlite3.OperationalError
        If the lock is held for longer than the timeout, or the disk fails.
    """
    deadline, pause_s = time.monotonic() + timeout_s, _FIRST_PAUSE_S
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.execute(begin)
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                    raise
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                return
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")


def not_by_index(column: ColumnElement[Value]) -> ColumnElement[Value]:
    """Disable indexes of this column for a term that may match too many rows (``+column``).

    References
    ----------
    https://www.sqlite.org/optoverview.html, "Disqualifying WHERE clause terms using unary +"
    """
    return UnaryExpression(column, operator=custom_op("+"), type_=column.type)


def choose_journal(path: Path) -> str | None:
    """Switch a database file to the journal of `journal_of`.

    Parameters
    ----------
    path
        The database file, opened by no other process at the same time.

    Returns
    -------
    str | None
        The new journal; None: unchanged.

    Raises
    ------
    StorageError
        If other processes use the file with another journal, or it is no database.
    """
    required = journal_of(path).mode
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
            (before,) = connection.execute("PRAGMA journal_mode").fetchone()
            journal = before
            if journal != required:
                (journal,) = connection.execute(f"PRAGMA journal_mode = {required}").fetchone()
    except sqlite3.DatabaseError as error:
        name = error.sqlite_errorname
        if name.startswith(MALFORMED):
            raise damaged(name) from error
        raise StorageError(
            f"The audit database can't be opened ({name}): see that no other process holds it, then start again."
        ) from error
    if journal != required:
        raise StorageError(
            f"The audit database has the journal {journal}, this SQLite library needs {required}: "
            "stop every process of the service, then start again."
        )
    return None if before == required else required


def damaged(name: str) -> DamagedDatabase:
    """Return the error of a damaged file, with SQLite's error name."""
    return DamagedDatabase(f"The audit database is damaged ({name}): `cxr db check` names the part. {RESTORE}")


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate errors of SQLAlchemy and SQLite, without statements and values.

    Raises
    ------
    SpoolFull
        If the disk is full.
    DatabaseUnavailable
        If the database is locked for longer than the busy timeout, or its disk fails or is read-only.
    DamagedDatabase
        If the file is damaged.
    StorageError
        For any other refusal of SQLite or SQLAlchemy.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:  # sqlite3.Error: while connecting
        name = getattr(getattr(error, "orig", error), "sqlite_errorname", type(error).__name__)
        if name == "SQLITE_FULL":
            raise SpoolFull("The disk of the audit database is full: free space on it.") from error
        if name.startswith(MALFORMED):
            raise damaged(name) from error
        if name.startswith(_PASSING):
            raise DatabaseUnavailable(
                f"The audit database can't be used now ({name}): another process holds it for long, or its disk "
                "fails or is read-only; nothing of the transaction was kept, and it may be tried again."
            ) from error
        raise StorageError(
            f"The audit database refused the transaction ({name}): nothing of it was kept; "
            "`cxr db check` tells whether the file is sound."
        ) from error
