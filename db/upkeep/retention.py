"""Retention: removal of the pixels of finished images, of delivered results and of files without a row.

The audit rows stay, and every removal is an event. Queued, scoring and held images are never removed; the pixels of
failed images only by an operator, since they may be requeued.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Select, and_, exists, or_, select

from config.settings import RetentionSettings
from cxr.domain import DeliveryState, JobState
from cxr.folder_sync import sync_folder
from db import jobs
from db.disk import Spool, SweepResult
from db.engine import Database, Session
from db.events import NO_FACTS, EventKind, append_event
from db.schema.records import FactValue
from db.schema.tables import Custody, Delivery, Image, Job, Report
from db.sqlite.connection import not_by_index

FINISHED = (JobState.REPORTED, JobState.NOT_SCORED)
PURGED = "purged"  # reason of an image discarded by an operator
_BATCH = 20  # files per transaction: each costs a disk write or two while the write lock is held


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedFiles:
    """Numbers of removed files."""

    pixels: int = 0
    reports: int = 0
    quarantined: int = 0


def enforce(database: Database, spool: Spool, settings: RetentionSettings, *, now: datetime) -> RemovedFiles:
    """Remove expired files; with little free space also the oldest finished pixels.

    Files are removed in small batches, each in one transaction with its events. A file is removed before its row is
    committed: after a kill in between, the next run finds the row again, and no patient data is left without a row.

    Parameters
    ----------
    database
        The audit database.
    spool
        Its files.
    settings
        Days and limits.
    now
        Current time, aware.

    Returns
    -------
    RemovedFiles
        Numbers of removed files.
    """
    pixels_until = now - timedelta(days=settings.pixels_days)
    pixels = 0
    while batch := _remove_pixels(database, spool, _finished(now, before=pixels_until), now=now, why="age"):
        pixels += batch
    while spool.free_mib() < settings.low_space_mib:
        batch = _remove_pixels(database, spool, _finished(now), now=now, why="low_space")
        if batch == 0:
            break
        pixels += batch
    reports = 0
    while batch := _remove_reports(
        database, spool, delivered_before=now - timedelta(days=settings.results_days), now=now
    ):
        reports += batch
    quarantined_until = now - timedelta(days=settings.quarantine_days)
    return RemovedFiles(
        pixels=pixels,
        reports=reports,
        quarantined=_empty_quarantine(database, spool, before=quarantined_until, now=now),
    )


def purge(
    database: Database,
    spool: Spool,
    *,
    states: Sequence[JobState],
    older_than: timedelta,
    now: datetime,
    by: Mapping[str, FactValue] = NO_FACTS,
) -> int:
    """Remove the pixels of failed or held images permanently, for an operator.

    Their jobs become ``not_scored`` with the reason ``purged``. An unchanged resend, for example after an archive's
    restore, does not restore the pixels; a changed one is a new image.

    Parameters
    ----------
    database, spool
        Rows and files.
    states
        ``FAILED``, ``HELD``, or both.
    older_than
        Minimum time in that state.
    now
        Current time, aware.
    by
        Operator: facts of ``db.events.account.account_facts``.

    Returns
    -------
    int
        Number of images.

    Raises
    ------
    ValueError
        If another state is named.
    """
    if not set(states) <= {JobState.FAILED, JobState.HELD}:
        raise ValueError("Only failed and held images are purged; retention removes the pixels of finished ones.")
    removed = 0
    due = _with_pixels(states).where(Job.updated_at <= now - older_than)
    while batch := _remove_pixels(database, spool, due, now=now, why=PURGED, by=by):
        removed += batch
    return removed


def sweep(database: Database, spool: Spool, *, older_than: datetime, now: datetime) -> SweepResult:
    """Move files without a row to the quarantine, and remove leftovers of aborted transfers.

    Parameters
    ----------
    database, spool
        Rows and files.
    older_than
        Aware; not later than the start of the listener and of the worker.
    now
        Current time, aware; time of the event, if files were quarantined.

    Returns
    -------
    SweepResult
        Numbers of moved and removed files.
    """
    names = select(Image.spool_name).union_all(select(Report.spool_name)).subquery()
    with database.read() as session:
        spool_names = set(session.scalars(select(names.c.spool_name).where(names.c.spool_name.is_not(None))))

    def is_known(spool_name: str) -> bool:
        if spool_name in spool_names:
            return True
        with database.read() as session:  # the row may have been added since
            return session.scalar(select(names.c.spool_name).where(names.c.spool_name == spool_name)) is not None

    swept = spool.sweep(is_known, older_than=older_than)
    if swept.quarantined:
        with database.begin() as session:
            append_event(session, EventKind.OBJECT_QUARANTINED, now=now, facts={"objects": swept.quarantined})
    return swept


def _with_pixels(states: Sequence[JobState]) -> Select[Image, int]:
    return (
        select(Image, Job.id)
        .join(Job, Job.image_id == Image.id)
        .outerjoin(Custody, Custody.image_id == Image.id)
        # By the index of kept files, oldest first: finished jobs include the whole history.
        .where(Image.spool_name.is_not(None), not_by_index(Job.state.expression).in_(states))
        .order_by(Image.received_at, Image.id)
        .limit(_BATCH)
    )


def _finished(now: datetime, before: datetime | None = None) -> Select[Image, int]:
    """Select finished images, without those committed to a peer until later."""
    finished = _with_pixels(FINISHED).where(or_(Custody.until.is_(None), Custody.until <= now))
    if before is None:
        return finished
    # An image is finished after its reception, so the index of kept files bounds the search.
    return finished.where(Image.received_at <= before, Job.updated_at <= before)


def _remove_pixels(
    database: Database,
    spool: Spool,
    due: Select[Image, int],
    *,
    now: datetime,
    why: str,
    by: Mapping[str, FactValue] = NO_FACTS,
) -> int:
    with database.begin() as session:
        rows = session.execute(due).all()
        for image, job_id in rows:
            if why == PURGED:
                jobs.discard(session, job_id, reason=why, now=now, by=by)
            _remove_file(session, spool, image, now=now, why=why, by=by)
        return len(rows)


def _remove_file(
    session: Session, spool: Spool, image: Image, *, now: datetime, why: str, by: Mapping[str, FactValue]
) -> None:
    if image.spool_name is not None:
        spool.remove(image.spool_name)
    image.spool_name, image.pixels_removed_at = None, now
    append_event(
        session,
        EventKind.PIXELS_REMOVED,
        now=now,
        image_id=image.id,
        facts={"why": why, **by},
        seals=(("pixels", image.id),),
    )


def _remove_reports(database: Database, spool: Spool, *, delivered_before: datetime, now: datetime) -> int:
    with database.begin() as session:
        reports = session.scalars(_delivered(delivered_before)).all()
        for report in reports:
            if report.spool_name is not None:
                spool.remove(report.spool_name)
            report.spool_name, report.removed_at = None, now
            append_event(
                session, EventKind.REPORT_REMOVED, now=now, report_id=report.id, seals=(("report", report.id),)
            )
        return len(reports)


def _empty_quarantine(database: Database, spool: Spool, *, before: datetime, now: datetime) -> int:
    due = spool.quarantined(before=before)
    if not due:
        return 0
    # The event first: without a row, an unrecorded removal could not be detected.
    with database.begin() as session:
        append_event(session, EventKind.QUARANTINE_EMPTIED, now=now, facts={"objects": len(due)})
    for path in due:
        path.unlink(missing_ok=True)
    sync_folder(spool.quarantine_dir)
    return len(due)


def _delivered(before: datetime) -> Select[Report]:
    """Select reports whose deliveries are all complete; a report without a destination stays."""
    is_open = or_(
        Delivery.state.not_in((DeliveryState.SENT, DeliveryState.VERIFIED)),
        and_(Delivery.state == DeliveryState.SENT, Delivery.due_at.is_not(None)),
        Delivery.updated_at > before,
    )
    its_delivery = exists().where(Delivery.report_id == Report.id).correlate(Report)
    return (
        select(Report)
        .where(Report.spool_name.is_not(None), Report.created_at <= before, its_delivery, ~its_delivery.where(is_open))
        .order_by(Report.created_at, Report.id)
        .limit(_BATCH)
    )
