"""Backups of the audit database: made while the service runs, and verified."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cxr.errors import StorageError
from cxr.folder_sync import sync_folder
from db.engine import Database
from db.events import EventKind, append_event
from db.sqlite.copy_database import Progress, copy_database
from db.upkeep.integrity import audit_key, check_copy

_NAME = re.compile(r"audit-\d{8}T\d{6}Z\.sqlite")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """A verified backup."""

    path: Path
    events: int  # in the backup, all verified
    removed: int  # number of removed older backups


def backup(
    database: Database, folder: Path, *, keep: int | None, now: datetime, progress: Progress | None = None
) -> BackupReport:
    """Back up the audit database, verify the copy, and remove the oldest backups.

    Parameters
    ----------
    database
        The live database.
    folder
        Folder of the backups; created if absent.
    keep
        Number of backups to keep, this one included; at least 1. None: all.
    now
        Current time, aware; part of the backup's name, in UTC.
    progress
        Called with copied and total pages.

    Returns
    -------
    BackupReport
        Path and contents of the backup.

    Raises
    ------
    StorageError
        If the copy is faulty: it is removed, and all older backups stay.
    SpoolFull
        If the disk is full.
    """
    target = folder / f"audit-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.sqlite"
    draft = target.with_suffix(".unproven")
    try:
        copy_database(database.path, draft, progress=progress)
        faults, events = check_copy(draft, audit_key(database))
        if faults:
            raise StorageError(
                f"The backup is not sound and was thrown away; older ones stay. {faults[0].message} "
                "`cxr db check` lists everything."
            )
        draft.rename(target)
        sync_folder(folder)
    finally:
        draft.unlink(missing_ok=True)
    with database.begin() as session:
        append_event(session, EventKind.BACKUP_MADE, now=now, facts={"events": events})
    return BackupReport(path=target, events=events, removed=_prune(folder, keep, target.name))


def list_backups(folder: Path) -> list[Path]:
    """Return the backups in a folder, oldest first, without other files."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def _prune(folder: Path, keep: int | None, latest: str) -> int:
    """Remove surplus backups, first those named later than ``latest``: their clock was ahead."""
    oldest_first = sorted(list_backups(folder), key=lambda path: (path.name <= latest, path.name))
    surplus = [] if keep is None else oldest_first[: -max(keep, 1)]
    for path in surplus:
        path.unlink()
    return len(surplus)
