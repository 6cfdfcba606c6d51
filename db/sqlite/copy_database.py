"""Consistent copies of a live SQLite database.

References
----------
https://www.sqlite.org/backup.html and https://www.sqlite.org/c3ref/backup_finish.html
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from cxr.errors import SpoolFull, StorageError
from db.disk import make_folder, translate_disk_errors, whole_file
from db.sqlite.connection import BUSY_TIMEOUT_S, MALFORMED, damaged
from db.sqlite.driver import sqlite3

Progress = Callable[[int, int], None]  # (copied pages, total pages)

_SLICE_PAGES = 1024  # 4 MiB: with a rollback journal a writer waits for one slice at most
_RESTARTS = 3
_ABANDONED_AFTER_S = 3600.0


class _Restarted(Exception):  # noqa: N818 (a signal between two functions, not an error)
    """Writes have restarted the copy too often."""


@contextmanager
def open_live(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an existing database for queries while others write.

    Not with ``mode=ro``: such a connection can't roll back the transaction of a killed writer.

    Raises
    ------
    StorageError
        If there is no database, or SQLite refuses.
    SpoolFull
        If the disk is full.
    """
    if not path.exists():
        raise StorageError(
            f"There is no audit database in {path.parent} yet: start the service once (`cxr serve`), or check "
            "--data-dir and --config."
        )
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA query_only = ON")
            yield connection
    except sqlite3.Error as error:
        raise translate(error) from error


def translate(error: sqlite3.Error) -> StorageError | SpoolFull:
    """Translate an error of SQLite, without its text."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if name == "SQLITE_FULL":
        return SpoolFull("The disk is full: free space on it and run the command again.")
    if name.startswith(MALFORMED):
        return damaged(name)
    return StorageError(f"SQLite refused ({name}): `cxr db check` tells whether the audit database is sound.")


def copy_database(source: Path, target: Path, *, progress: Progress | None = None) -> None:
    """Copy a live database durably into one file, which replaces ``target`` when complete.

    With a write-ahead log writers don't wait, and concurrent writes have no effect on the copy. With a rollback
    journal writers wait for one slice, and a write restarts the copy; after a few restarts it is copied in one
    step.

    Parameters
    ----------
    source
        The database; others may be writing to it.
    target
        File to create or replace atomically.
    progress
        Called after each slice.

    Raises
    ------
    StorageError
        If there is no database at ``source``, or SQLite refuses.
    SpoolFull
        If the disk of ``target`` is full.
    """
    with translate_disk_errors():
        make_folder(target.parent)
        _remove_abandoned(target)
    with open_live(source) as live, translate_disk_errors(), whole_file(target) as draft:
        try:
            with _one_state(live):
                _copy(live, draft, _SLICE_PAGES, progress)
        except _Restarted:
            os.truncate(draft, 0)
            _copy(live, draft, -1, progress)


@contextmanager
def _one_state(live: sqlite3.Connection) -> Iterator[None]:
    """Keep one state of a database in a read transaction; only with a write-ahead log.

    The log keeps the pages of this state, so that no writer waits and the copy never restarts.
    """
    if live.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        yield
        return
    live.execute("BEGIN")
    live.execute("SELECT count(*) FROM sqlite_master").fetchone()  # starts the read transaction
    try:
        yield
    finally:
        live.execute("ROLLBACK")


def _copy(live: sqlite3.Connection, draft: Path, slice_pages: int, progress: Progress | None) -> None:
    restarts, copied = 0, 0
    # Fsync after each slice: one fsync at the end would delay the fsync of concurrent commits.
    written = os.open(draft, os.O_WRONLY | os.O_CLOEXEC)

    def advance(_status: int, remaining: int, total: int) -> None:
        nonlocal restarts, copied
        if total - remaining < copied or (copied and total - remaining == copied and remaining):
            restarts += 1
        copied = total - remaining
        os.fsync(written)
        if progress is not None:
            progress(copied, total)
        if restarts > _RESTARTS and slice_pages > 0 and remaining:
            raise _Restarted

    try:
        with closing(sqlite3.connect(draft, isolation_level=None)) as copy:
            # No journal: the draft of an interrupted copy is discarded.
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            live.backup(copy, pages=slice_pages, progress=advance, sleep=0.02)
            # No write-ahead log, which readers of the copy would have to create.
            copy.execute("PRAGMA journal_mode = DELETE")
    finally:
        os.close(written)  # after SQLite's descriptor: closing any descriptor of a file releases its POSIX locks


def _remove_abandoned(target: Path) -> None:
    """Remove drafts left by killed processes."""
    limit = time.time() - _ABANDONED_AFTER_S
    for draft in target.parent.glob(f".{target.name}.*"):
        if draft.stat().st_mtime < limit:
            draft.unlink(missing_ok=True)
