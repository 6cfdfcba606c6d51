"""``audit-read.sqlite``: the copy of the audit database that people open.

A notebook that keeps a read transaction open on the live file would hold up every commit, and with
it every C-STORE. On the copy it may stay as long as it likes: a refresh puts a new file in its place,
and the reader keeps the old one.
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
    """Bring the snapshot up to date, if anything happened since it was made.

    Parameters
    ----------
    database
        The live database.
    target
        The snapshot; replaced in one step, readable by its owner only.
    always
        Make it anew even if nothing happened.
    progress
        Called with pages copied and pages in all.

    Returns
    -------
    bool
        Whether it was made anew.

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
    """Last event and schema: every change of state writes an event in its own transaction."""
    with open_live(path) as connection:
        return _state(connection)


def _state_of_snapshot(path: Path) -> State | None:
    """The same of the snapshot; None if it is damaged, for example by somebody who wrote into it."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return _state(connection)
    except sqlite3.Error:
        return None


def _state(connection: sqlite3.Connection) -> State:
    last_event, schema = connection.execute(_STATE).fetchone()
    return last_event, schema
