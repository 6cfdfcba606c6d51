"""Taking what was forgotten out of every file that holds a copy: the database's own pages, snapshot, backups.

A row that is changed leaves its old bytes in the file until something else is written there, and a
page that was moved leaves them even with ``secure_delete``. So the file is rebuilt (VACUUM), and
copies that were made of it are made again or rewritten.
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
    """What became of the copies."""

    backups: int  # that were rewritten
    left: tuple[Path, ...]  # of another schema, damaged, or just being made: they hold what they held


def erase(
    database: Database, *, snapshot: Path, folders: Sequence[Path], request: ForgetRequest, now: datetime
) -> EraseResult:
    """Rebuild the database's file, its snapshot, and every backup that holds somebody who was forgotten.

    Repeatable: killed, or refused for lack of space, it is done again by the same command.

    Parameters
    ----------
    database
        The live database; forgotten rows are blank already. Everybody else waits while it is rebuilt.
    snapshot
        The copy that people open; made anew if it is there.
    folders
        Where backups lie.
    request
        Who was forgotten now; those before are looked for as well.
    now
        The time.

    Raises
    ------
    StorageError
        If the database is in use for longer than the busy timeout, or SQLite refuses otherwise.
    SpoolFull
        If there is no room for the copies.
    """
    rebuild(database.path)
    if snapshot.exists():
        refresh_snapshot(database, snapshot, always=True)
    with database.read() as session:
        known, identifiers = forgotten(session), of_session(session)
    key = audit_key(database)
    rewritten, left = 0, list(_drafts([database.path.parent, *folders]))
    for path in (backup for folder in folders for backup in list_backups(folder)):
        if not _is_ours(path):
            left.append(path)
            continue
        with _opened(path, key, identifiers) as copy:
            images = _to_forget(copy, request, known)
        if images:
            _rewrite(path, images, key, now=now)
            rewritten += 1
    return EraseResult(backups=rewritten, left=tuple(left))


def rebuild(path: Path) -> None:
    """Write a database file anew, so that nothing is left of what its rows held before.

    Raises
    ------
    StorageError
        If it is in use for longer than the busy timeout, or SQLite refuses otherwise.
    SpoolFull
        If the disk is full.
    """
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            # Beside the database: there is room, and nobody else may read there.
            folder = str(path.parent.absolute()).replace("'", "''")
            connection.execute(f"PRAGMA temp_store_directory = '{folder}'")
            connection.execute("VACUUM")
            # Until then the old pages stand in the database's file, and every earlier state of them in the log.
            (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_busy:
                raise StorageError(
                    f"The audit database was read by another process for {BUSY_TIMEOUT_S:.0f} s, so that what was "
                    "forgotten is still in its file: end that process and run the command again."
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
    """List backups that are being made; copies that a killed process left are removed.

    A snapshot or a check that is under way is gone, or made again, within a minute.
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


def _is_ours(path: Path) -> bool:
    """Whether a backup has this version's schema."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]
    except sqlite3.Error:
        return False
    return found == [newest_revision()]


def _to_forget(copy: Database, request: ForgetRequest, known: Mapping[int, datetime]) -> tuple[int, ...]:
    """Return the images that a copy still holds and that are forgotten: by whose they are, or by their number.

    A number counts where the copy's image was received at the same moment: after a restore, numbers
    are given anew.
    """
    named = set(find(copy, None, request).images)
    with copy.read() as session:
        same = {number for number, received_at in _received(session, known) if known[number] == received_at}
        blank = set(forgotten(session))
    return tuple(sorted((named | same) - blank))


def _received(session: Session, numbers: Mapping[int, datetime]) -> list[tuple[int, datetime]]:
    rows = session.execute(select(Image.id, Image.received_at).where(Image.id.in_(numbers)))
    return [(row.id, row.received_at) for row in rows]


def _rewrite(path: Path, images: Sequence[int], key: bytes, *, now: datetime) -> None:
    """Forget in a copy of a backup, prove the copy, and give it the backup's name."""
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
