"""Damage of the audit database's file: noted by whichever process meets it, seen by health, cleared by a sound check.

A page that is damaged fails only the transactions that read it, so that a probe may find nothing while every
C-STORE is refused. The note is an empty file beside the database, and outlives the process that made it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from db.sqlite.connection import MALFORMED
from db.sqlite.copy_database import open_live

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE '%WITHOUT ROWID%'"


def is_malformed(error: BaseException | None) -> bool:
    """Whether an error of SQLite says that the file is damaged, or no database."""
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(MALFORMED)


def note(path: Path) -> None:
    """Note that the database at ``path`` was found damaged; a disk that refuses the note is left alone."""
    with suppress(OSError):
        _note_of(path).touch(mode=0o600)


def clear(path: Path) -> None:
    """Remove the note, after a check that found the whole file sound."""
    with suppress(OSError):
        _note_of(path).unlink(missing_ok=True)


def is_noted(path: Path) -> bool:
    """Whether a process found the database damaged, and no check found it sound since."""
    return _note_of(path).exists()


def probe(path: Path) -> None:
    """Read the newest row of every table: where the next object would be written.

    Parameters
    ----------
    path
        The live database.

    Raises
    ------
    StorageError
        If it is absent, or one of these rows can't be read; `DamagedDatabase` where the file is damaged.
    SpoolFull
        If the disk is full.
    """
    with open_live(path) as connection:
        for (table,) in connection.execute(_TABLES).fetchall():
            connection.execute(f'SELECT * FROM "{table}" ORDER BY rowid DESC LIMIT 1').fetchone()


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")
