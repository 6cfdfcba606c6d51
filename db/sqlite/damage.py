"""Mark of a damaged database file: set by any process, read by the health check, cleared by a sound check.

A damaged page fails only transactions that read it, so a probe may succeed while every C-STORE is refused. The mark
is an empty file beside the database.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from db.sqlite.connection import MALFORMED
from db.sqlite.copy_database import open_live

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE '%WITHOUT ROWID%'"


def is_malformed(error: BaseException | None) -> bool:
    """Return whether SQLite reports a damaged file or no database."""
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(MALFORMED)


def note(path: Path) -> None:
    """Mark the database at ``path`` as damaged; errors of the disk are ignored."""
    with suppress(OSError):
        _mark_of(path).touch(mode=0o600)


def clear(path: Path) -> None:
    """Remove the mark, after a check of the whole file without faults."""
    with suppress(OSError):
        _mark_of(path).unlink(missing_ok=True)


def is_noted(path: Path) -> bool:
    """Return whether the database is marked as damaged."""
    return _mark_of(path).exists()


def probe(path: Path) -> None:
    """Read the newest row of every table, next to which new rows are written.

    Parameters
    ----------
    path
        The live database.

    Raises
    ------
    StorageError
        If it is absent, or a row can't be read; `DamagedDatabase` if the file is damaged.
    SpoolFull
        If the disk is full.
    """
    with open_live(path) as connection:
        for (table,) in connection.execute(_TABLES).fetchall():
            connection.execute(f'SELECT * FROM "{table}" ORDER BY rowid DESC LIMIT 1').fetchone()


def _mark_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")
