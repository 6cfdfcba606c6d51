"""Backups of the audit database: made beside a running service, proven before they count."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cxr.errors import StorageError
from db.disk import sync_folder
from db.engine import Database
from db.events import EventKind, append_event
from db.sqlite.copy_database import Progress, copy_database
from db.upkeep.integrity import audit_key, check_copy

_NAME = re.compile(r"audit-\d{8}T\d{6}Z\.sqlite")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """A backup that was made and proven."""

    path: Path
    events: int  # in it, all verified
    removed: int  # older backups that went


def backup(
    database: Database, folder: Path, *, keep: int | None, now: datetime, progress: Progress | None = None
) -> BackupReport:
    """Back up the audit database, prove the copy, and let the oldest backups go.

    Parameters
    ----------
    database
        The live database.
    folder
        Where backups lie; made if absent.
    keep
        How many backups stay, this one included; at least 1. None: all.
    now
        Aware; the backup's name says it in UTC.
    progress
        Called with pages copied and pages in all.

    Returns
    -------
    BackupReport
        Where it is and what is in it.

    Raises
    ------
    StorageError
        If the copy is not sound: it gets no name, and no older backup goes.
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
    """Backups in a folder, the oldest first; other files are not looked at."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def _prune(folder: Path, keep: int | None, latest: str) -> int:
    """Let all go but the latest; what is named later than the one just made was made by a clock that was ahead."""
    oldest_first = sorted(list_backups(folder), key=lambda path: (path.name <= latest, path.name))
    surplus = [] if keep is None else oldest_first[: -max(keep, 1)]
    for path in surplus:
        path.unlink()
    return len(surplus)
