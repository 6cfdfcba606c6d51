"""Snapshot of the audit database for readers: ``audit-read.sqlite``.

A long read transaction on the live file would delay commits, and with them every C-STORE. On the snapshot it may
last: a refresh replaces the file, and the reader keeps the old one open.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from db.engine import Database
from db.sqlite.copy_database import Progress, copy_database, open_live
from db.sqlite.driver import sqlite3

_STATE = "SELECT (SELECT max(id) FROM event), (SELECT group_concat(version_num) FROM alembic_version)"

State = tuple[int | None, str | None]


def refresh_snapshot(
    database: Database, target: Path, *, always: bool = False, progress: Progress | None = None
) -> bool:
    """Refresh the snapshot if the database has changed since.

    Parameters
    ----------
    database
        The live database.
    target
        The snapshot; replaced atomically, readable by its owner only.
    always
        Refresh it even if nothing has changed.
    progress
        Called with copied and total pages.

    Returns
    -------
    bool
        Whether it was refreshed.

    Raises
    ------
    StorageError
        If there is no database, or SQLite refuses.
    SpoolFull
        If the disk is full.
    """
    if not always and target.exists() and _state_of_snapshot(target) == _state_of_live(database.path):
        return False
    copy_database(database.path, target, progress=progress)
    return True


def _state_of_live(path: Path) -> State | None:
    """Return last event and schema; every change of state writes an event in its transaction."""
    with open_live(path) as connection:
        return _state(connection)


def _state_of_snapshot(path: Path) -> State | None:
    """Return last event and schema of the snapshot; None if it is damaged."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return _state(connection)
    except sqlite3.Error:
        return None


def _state(connection: sqlite3.Connection) -> State:
    last_event, schema = connection.execute(_STATE).fetchone()
    return last_event, schema
