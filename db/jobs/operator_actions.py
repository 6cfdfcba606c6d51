"""Actions of an operator on jobs: list, count, release, requeue, discard."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cxr.domain import JobState
from cxr.errors import StorageError
from db.events import NO_FACTS, EventKind
from db.jobs.states import check_pixels, get_job, move
from db.schema import counts
from db.schema.records import FactValue, JobRow
from db.schema.tables import Image, Job


def release(session: Session, job_id: int, now: datetime, *, by: Mapping[str, FactValue] = NO_FACTS) -> None:
    """Queue a held image for scoring; ``by``: facts of ``db.events.account.account_facts``.

    Raises
    ------
    MissingRow
        If there is no such job, or its pixels are no longer stored.
    StorageError
        If it is not held.
    """
    job = get_job(session, job_id, expected=JobState.HELD)
    check_pixels(session, job)
    move(session, job, JobState.QUEUED, EventKind.JOB_RELEASED, now=now, facts=by, not_before=None)


def requeue(session: Session, job_id: int, now: datetime, *, by: Mapping[str, FactValue] = NO_FACTS) -> None:
    """Queue a failed job again with no attempts; ``by`` as for `release`.

    Raises
    ------
    MissingRow
        If there is no such job, or its pixels are no longer stored.
    StorageError
        If it has not failed.
    """
    job = get_job(session, job_id, expected=JobState.FAILED)
    check_pixels(session, job)
    move(
        session,
        job,
        JobState.QUEUED,
        EventKind.JOB_REQUEUED,
        now=now,
        facts=by,
        attempts=0,
        not_before=None,
        error_code=None,
    )


def discard(
    session: Session, job_id: int, *, reason: str, now: datetime, by: Mapping[str, FactValue] = NO_FACTS
) -> None:
    """Set a held or failed image to ``not_scored``.

    Parameters
    ----------
    session
        A write transaction.
    job_id
        Job.
    reason
        Code, stored as the image's reason.
    now
        Current time, aware.
    by
        Operator: facts of ``db.events.account.account_facts``.

    Raises
    ------
    MissingRow
        If there is no such job.
    StorageError
        If it is neither held nor failed.
    """
    job = get_job(session, job_id)
    if job.state not in (JobState.HELD, JobState.FAILED):
        raise StorageError(
            f"Job {job.id} is {job.state} and can't become not_scored this way; only one that is held or failed can."
        )
    move(
        session,
        job,
        JobState.NOT_SCORED,
        EventKind.JOB_DISCARDED,
        now=now,
        facts={"reason": reason, **by},
        reason=reason,
        not_before=None,
    )


def oldest_change(session: Session, state: JobState) -> datetime | None:
    """Return the time since which the oldest job of a state is in it; None: no job is in it.

    Parameters
    ----------
    session
        Any transaction.
    state
        State with few jobs: all of them are read.
    """
    return session.scalar(select(func.min(Job.updated_at)).where(Job.state == state))


def first_received(session: Session, state: JobState) -> datetime | None:
    """Return the time of receipt of the earliest image whose job is in a state; None: no job is in it."""
    return session.scalar(
        select(Image.received_at)
        .join(Job, Job.image_id == Image.id)
        .where(Job.state == state)
        .order_by(Job.id)
        .limit(1)
    )


def list_jobs(
    session: Session, *, state: JobState | None = None, limit: int | None = None, before_id: int | None = None
) -> list[JobRow]:
    """Return jobs for an operator, latest first.

    Parameters
    ----------
    session
        Any transaction.
    state
        Only this state; None: all.
    limit
        Maximum number; None: all, for a short history only.
    before_id
        Only earlier jobs than this one; None: all.
    """
    query = select(Job, Image.sop_instance_uid, Image.received_at).join(Image, Image.id == Job.image_id)
    if state is not None:
        query = query.where(Job.state == state)
    if before_id is not None:
        query = query.where(Job.id < before_id)
    rows = session.execute(query.order_by(Job.id.desc()).limit(limit).execution_options(populate_existing=True))
    return [
        JobRow(
            id=row.id,
            image_id=row.image_id,
            sop_instance_uid=sop_instance_uid,
            state=row.state,
            reason=row.reason,
            attempts=row.attempts,
            not_before=row.not_before,
            error_code=row.error_code,
            received_at=received_at,
            updated_at=row.updated_at,
        )
        for row, sop_instance_uid, received_at in rows
    ]


def count_by_state(session: Session) -> dict[JobState, int]:
    """Return the number of jobs in each state, zeros included."""
    return counts.count_by_state(session, "job", JobState)
