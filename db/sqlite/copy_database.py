"""A whole and consistent copy of a live SQLite database.

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

Progress = Callable[[int, int], None]  # (pages copied, pages in all)

_SLICE_PAGES = 1024  # 4 MiB: with a rollback journal a writer waits for one slice at most
_RESTARTS = 3
_ABANDONED_AFTER_S = 3600.0


class _Restarted(Exception):  # noqa: N818 (a signal between two functions, not an error)
    """Somebody wrote, and the copy had to begin again once too often."""


@contextmanager
def open_live(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an existing database beside those who write to it; for queries only.

    Not with ``mode=ro``: such a connection can't roll back what a killed writer left behind.

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
    """Turn an error of SQLite into ours, without its text."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if name == "SQLITE_FULL":
        return SpoolFull("The disk is full: free space on it and run the command again.")
    if name.startswith(MALFORMED):
        return damaged(name)
    return StorageError(f"SQLite refused ({name}): `cxr db check` tells whether the audit database is sound.")


def copy_database(source: Path, target: Path, *, progress: Progress | None = None) -> None:
    """Copy a live database into a new, durable file of one piece, and give it its name only then.

    With a write-ahead log nobody waits, and a write in between does not matter. With a rollback journal writers
    wait for a slice of the copy, and a write in between starts it again; after a few such restarts the rest is
    copied in one go.

    Parameters
    ----------
    source
        The database; others may be writing to it.
    target
        Where the copy goes; replaced in one step, so a reader sees the old one or the new one.
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
    """Hold one state of a database with a write-ahead log, while others write; with another journal, do nothing.

    The log keeps what the state needs, so that nobody waits and the copy never starts again.
    """
    if live.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        yield
        return
    live.execute("BEGIN")
    live.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here on it is held
    try:
        yield
    finally:
        live.execute("ROLLBACK")


def _copy(live: sqlite3.Connection, draft: Path, slice_pages: int, progress: Progress | None) -> None:
    restarts, copied = 0, 0
    # Written out as it goes: one flush at the end would hold up the fsync of every commit meanwhile.
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
            # A draft that a crash cuts short is thrown away: no journal, and one fsync at the end.
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            live.backup(copy, pages=slice_pages, progress=advance, sleep=0.02)
            # One file: a reader of the copy must not need to write a log beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
    finally:
        os.close(written)  # after SQLite's own descriptor: closing one of a file ends all locks on it


def _remove_abandoned(target: Path) -> None:
    """Remove drafts that a killed process left."""
    limit = time.time() - _ABANDONED_AFTER_S
    for draft in target.parent.glob(f".{target.name}.*"):
        if draft.stat().st_mtime < limit:
            draft.unlink(missing_ok=True)
