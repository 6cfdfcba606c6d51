"""One attempt at a rebuild: take the lock, resume or begin a rebuild, and record its outcome.

The process holds a lock on the folder of runs while it lives, so that two attempts never run at once, whatever started
them and whatever the database holds.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.rebuild.data import MANIFEST_FILE
from app.rebuild.report import REPORT_FILE, write_failure
from app.rebuild.steps import Rebuild
from config.logs import get_logger
from cxr.counts import counted
from cxr.domain import RebuildState
from cxr.errors import CxrError
from db.disk import durable
from db.engine import Database, open_database
from db.models import Outcome, RebuildRow, rebuilds

if TYPE_CHECKING:
    from config.settings import Settings

log = get_logger(__name__)

LOCK_FILE: Final = ".rebuild.lock"
KILLED: Final = "rebuild_killed"


def attempt(settings: Settings, *, due_at: datetime | None, clock: Callable[[], datetime]) -> Outcome | None:
    """Resume the unfinished rebuild, or begin one.

    Parameters
    ----------
    settings
        All settings.
    due_at
        Scheduled time of a new rebuild; None: now, started by hand.
    clock
        Returns the current time, aware.

    Returns
    -------
    Outcome | None
        None if another process runs a rebuild.

    Raises
    ------
    StorageError
        If the database can't be used.
    """
    durable.make_folder(settings.runs_dir)
    with _exclusive_lock(settings.runs_dir) as is_locked:
        if not is_locked:
            return None
        database = open_database(
            settings.database_path, settings.audit_key_path, create=False, traces=settings.database_traces
        )
        try:
            row = _resume_or_begin(database, due_at or clock(), clock())
            outcome = _outcome(settings, database, row, clock)
            with database.begin() as session:
                rebuilds.end(session, row.id, outcome, now=clock())
        finally:
            database.dispose()
    if outcome.state is RebuildState.FAILED:
        log.error("rebuild_failed", code=outcome.error_code)
    else:
        log.info("rebuild_ended", state=outcome.state.value, code=outcome.error_code, images=outcome.images,
                 fingerprint=outcome.fingerprint)  # fmt: skip
    return outcome


@contextmanager
def _exclusive_lock(runs_dir: Path) -> Iterator[bool]:
    descriptor = os.open(runs_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, durable.FILE_MODE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _resume_or_begin(database: Database, due_at: datetime, now: datetime) -> RebuildRow:
    with database.begin() as session:
        row = rebuilds.running(session)
        if row is None:
            row = rebuilds.begin(session, due_at=due_at, run_name=f"rebuild-{due_at:%Y%m%dT%H%M%SZ}", now=now)
        rebuilds.count_attempt(session, row.id)
    log.info("rebuild_started", attempt=row.attempts + 1)
    return row


def _outcome(settings: Settings, database: Database, row: RebuildRow, clock: Callable[[], datetime]) -> Outcome:
    folder = settings.runs_dir / row.run_name
    durable.make_folder(folder)
    if row.attempts >= settings.rebuild.max_attempts:
        message = "Its process was killed rebuild.max_attempts times: check the memory of the host."
        return _failed(folder, row, KILLED, message)
    rebuild = Rebuild(settings, database, folder, row.due_at, _earlier_manifests(settings, database), clock)
    try:
        outcome = rebuild.run()
    except CxrError as error:
        return _failed(folder, row, error.code, str(error))
    except Exception:  # recorded as a failure; the next rebuild starts anew
        log.exception("unexpected")
        return _failed(folder, row, CxrError.code, "An unexpected fault; the log names its place in the code.")
    if outcome.error_code is not None:
        write_failure(
            folder / REPORT_FILE,
            row.due_at,
            outcome.error_code,
            f"{counted(outcome.new_images or 0, 'new labelled image')}.",
        )
    return outcome


def _failed(folder: Path, row: RebuildRow, code: str, message: str) -> Outcome:
    write_failure(folder / REPORT_FILE, row.due_at, code, message)
    return Outcome(state=RebuildState.FAILED, error_code=code)


def _earlier_manifests(settings: Settings, database: Database) -> list[Path]:
    """Return the manifests of the start run and of the latest rebuild that made a package."""
    with database.read() as session:
        done = rebuilds.latest(session, state=RebuildState.DONE)
    folders = [settings.rebuild.start, None if done is None else settings.runs_dir / done.run_name]
    files = [folder / MANIFEST_FILE for folder in folders if folder is not None]
    return [file for file in files if file.exists()]
