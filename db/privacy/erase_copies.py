"""Erasure of forgotten data from every file: the database's own pages, snapshot and backups.

The old bytes of a changed row stay in the file until they are overwritten, and those of a moved page even with
``secure_delete``. So the file is rebuilt (VACUUM), the snapshot is made again and backups are rewritten.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from cxr.errors import StorageError
from db.disk import whole_file
from db.engine import Database
from db.identifiers import AS_RECEIVED, Identifiers, of_session
from db.privacy.forget import ForgetRequest, find, forget, forgotten
from db.schema.tables import Image
from db.sqlite.connection import BUSY_TIMEOUT_S
from db.sqlite.copy_database import copy_database, translate
from db.sqlite.driver import sqlite3
from db.sqlite.migrate import newest_revision
from db.upkeep.backup import list_backups
from db.upkeep.integrity import audit_key, check_copy
from db.upkeep.snapshot import refresh_snapshot

_ABANDONED_AFTER_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseResult:
    """Result of the erasure in copies."""

    backups: int  # rewritten
    left: tuple[Path, ...]  # unchanged: of another schema, damaged, or being written


def erase(
    database: Database, *, snapshot: Path, folders: Sequence[Path], request: ForgetRequest, now: datetime
) -> EraseResult:
    """Rebuild the database file, its snapshot, and every backup with data of a forgotten patient.

    May be repeated after a kill or a full disk.

    Parameters
    ----------
    database
        The live database, with forgotten rows blanked. Other connections wait while it is rebuilt.
    snapshot
        The snapshot; refreshed if it exists.
    folders
        Folders of backups.
    request
        The present request; images forgotten earlier are erased too.
    now
        Current time, aware.

    Raises
    ------
    StorageError
        If the database is in use for longer than the busy timeout, or SQLite refuses otherwise.
    SpoolFull
        If the disk has no space for the copies.
    """
    rebuild(database.path)
    if snapshot.exists():
        refresh_snapshot(database, snapshot, always=True)
    with database.read() as session:
        already_forgotten, identifiers = forgotten(session), of_session(session)
    key = audit_key(database)
    rewritten, left = 0, list(_drafts([database.path.parent, *folders]))
    for path in (backup for folder in folders for backup in list_backups(folder)):
        if not _has_current_schema(path):
            left.append(path)
            continue
        with _opened(path, key, identifiers) as copy:
            images = _to_forget(copy, request, already_forgotten)
        if images:
            _rewrite(path, images, key, now=now)
            rewritten += 1
    return EraseResult(backups=rewritten, left=tuple(left))


def rebuild(path: Path) -> None:
    """Rebuild a database file, without former contents of its rows.

    Raises
    ------
    StorageError
        If it is in use for longer than the busy timeout, or SQLite refuses otherwise.
    SpoolFull
        If the disk is full.
    """
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            # Beside the database: a folder with space that no other account may read.
            folder = str(path.parent.absolute()).replace("'", "''")
            connection.execute(f"PRAGMA temp_store_directory = '{folder}'")
            connection.execute("VACUUM")
            # Until the checkpoint, the file has the old pages, and the log their earlier states.
            (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_busy:
                raise StorageError(
                    f"The audit database was read by another process for {BUSY_TIMEOUT_S:.0f} s, so that its file "
                    "still holds the deleted values: end that process and run the command again."
                )
    except sqlite3.Error as error:
        raise translate(error) from error


@contextmanager
def _opened(path: Path, key: bytes, identifiers: Identifiers) -> Iterator[Database]:
    copy = Database(path, key, identifiers)
    try:
        yield copy
    finally:
        copy.dispose()


def _drafts(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield backups being written; remove copies left by killed processes.

    A snapshot or check in progress is removed or refreshed within a minute.
    """
    limit = time.time() - _ABANDONED_AFTER_S
    for folder in (folder for folder in folders if folder.is_dir()):
        for draft in (*folder.glob(".audit*"), *folder.glob("*.unproven"), *folder.glob(".check-*")):
            if draft.stat().st_mtime > limit:
                yield from [draft] if "unproven" in draft.name else []
            elif draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                draft.unlink(missing_ok=True)


def _has_current_schema(path: Path) -> bool:
    """Return whether a backup has this version's schema."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            revisions = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]
    except sqlite3.Error:
        return False
    return revisions == [newest_revision()]


def _to_forget(copy: Database, request: ForgetRequest, already_forgotten: Mapping[int, datetime]) -> tuple[int, ...]:
    """Return the images of a copy to forget: those of the request, and those forgotten earlier, by id.

    An id counts only with the same time of reception: after a restore, ids are assigned again.
    """
    requested = set(find(copy, None, request).images)
    with copy.read() as session:
        same = {
            number
            for number, received_at in _received(session, already_forgotten)
            if already_forgotten[number] == received_at
        }
        blank = set(forgotten(session))
    return tuple(sorted((requested | same) - blank))


def _received(session: Session, numbers: Mapping[int, datetime]) -> list[tuple[int, datetime]]:
    rows = session.execute(select(Image.id, Image.received_at).where(Image.id.in_(numbers)))
    return [(row.id, row.received_at) for row in rows]


def _rewrite(path: Path, images: Sequence[int], key: bytes, *, now: datetime) -> None:
    """Replace a backup by a verified copy without the forgotten images."""
    with whole_file(path, draft_suffix="rewritten") as draft:
        try:
            copy_database(path, draft)
            with _opened(draft, key, AS_RECEIVED) as copy, copy.begin() as session:
                for number in images:
                    forget(session, None, number, now=now)
            rebuild(draft)
            faults, _ = check_copy(draft, key)
        finally:
            draft.with_name(f"{draft.name}-journal").unlink(missing_ok=True)
        if faults:
            raise StorageError(
                f"A backup could not be rewritten soundly and stays as it was. {faults[0].message} Remove it by hand."
            )
