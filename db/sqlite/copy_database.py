"""Consistent copies of a live SQLite database.

References
----------
https://www.sqlite.org/backup.html and https://www.sqlite.org/c3ref/backup_finish.html
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from cxr.errors import SpoolFull, StorageError
from db.disk import make_folder, translate_disk_errors, whole_file
from db.sqlite import page_copy
from db.sqlite.connection import BUSY_TIMEOUT_S, MALFORMED, damaged
from db.sqlite.driver import sqlite3

Progress = Callable[[int, int], None]  # (copied pages, total pages)

_SLICE_PAGES = 1024  # 4 MiB: with a rollback journal a writer waits for one slice at most
_PAGE_BYTES = 4096
_ABANDONED_AFTER_S = 3600.0


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
    return refusal(getattr(error, "sqlite_errorname", type(error).__name__))


def refusal(name: str) -> StorageError | SpoolFull:
    """Return the error for the name of an error of SQLite."""
    if name == "SQLITE_FULL":
        return SpoolFull("The disk is full: free space on it and run the command again.")
    if name.startswith(MALFORMED):
        return damaged(name)
    return StorageError(f"SQLite refused ({name}): `cxr db check` tells whether the audit database is sound.")


def copy_database(source: Path, target: Path, *, progress: Progress | None = None) -> None:
    """Copy a live database durably into one file, which replaces ``target`` when complete.

    With a write-ahead log writers don't wait, and concurrent writes have no effect on the copy. With a rollback
    journal writers wait for one slice, and once for a comparison of the two files in the page
    cache (`db.sqlite.page_copy`).

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
        if live.execute("PRAGMA journal_mode").fetchone() == ("wal",):
            with _one_state(live):
                _copy_by_backup(live, draft, progress)
        else:
            _copy_by_pages(source, draft, progress)


@contextmanager
def _one_state(live: sqlite3.Connection) -> Iterator[None]:
    """Keep one state of a database in a read transaction.

    The write-ahead log keeps the pages of this state, so that no writer waits and the copy never restarts.
    """
    live.execute("BEGIN")
    live.execute("SELECT count(*) FROM sqlite_master").fetchone()  # starts the read transaction
    try:
        yield
    finally:
        live.execute("ROLLBACK")


def _copy_by_backup(live: sqlite3.Connection, draft: Path, progress: Progress | None) -> None:
    # Fsync after each slice: one fsync at the end would delay the fsync of concurrent commits.
    written = os.open(draft, os.O_WRONLY | os.O_CLOEXEC)

    def advance(_status: int, remaining: int, total: int) -> None:
        os.fsync(written)
        if progress is not None:
            progress(total - remaining, total)

    try:
        with closing(sqlite3.connect(draft, isolation_level=None)) as copy:
            # No journal: the draft of an interrupted copy is discarded.
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            live.backup(copy, pages=_SLICE_PAGES, progress=advance, sleep=0.02)
            # No write-ahead log, which readers of the copy would have to create.
            copy.execute("PRAGMA journal_mode = DELETE")
    finally:
        os.close(written)  # after SQLite's descriptor: closing any descriptor of a file releases its POSIX locks


def _copy_by_pages(source: Path, draft: Path, progress: Progress | None) -> None:
    command = [sys.executable, "-m", page_copy.__name__, str(source), str(draft), str(_SLICE_PAGES * _PAGE_BYTES)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        last = ""
        for line in process.stdout or ():
            last = line.strip()
            copied, _, total = last.partition(" ")
            if total and progress is not None:
                progress(int(copied) // _PAGE_BYTES, int(total) // _PAGE_BYTES)
    if process.returncode == page_copy.SQLITE_REFUSED:
        raise refusal(last)
    if process.returncode == page_copy.SYSTEM_REFUSED:
        raise OSError(int(last), os.strerror(int(last)))
    if process.returncode:
        raise StorageError(
            f"The process that copies the audit database ended with code {process.returncode}; run the command again."
        )


def _remove_abandoned(target: Path) -> None:
    """Remove drafts left by killed processes."""
    limit = time.time() - _ABANDONED_AFTER_S
    for draft in target.parent.glob(f".{target.name}.*"):
        if draft.stat().st_mtime < limit:
            draft.unlink(missing_ok=True)
