"""The job queue: claims, leases and outcomes.

Every transition is one of `TRANSITIONS` and writes its event in the same transaction. An outcome is accepted
only from the worker that holds the job's lease.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Select, exists, or_, select, update
from sqlalchemy.orm import Session

from cxr.domain import JobState, ScoredImage
from db.events import EventKind, append_event
from db.jobs import result_rows
from db.jobs.operator_actions import count_by_state, discard, list_jobs, release, requeue
from db.jobs.states import INITIAL_STATES, TRANSITIONS, CurrentJob, get_owned_job, move, select_jobs
from db.schema.records import ClaimedJob, FactValue, ReportRecord
from db.schema.tables import Decision, Event, Image, Job

__all__ = [
    "INITIAL_STATES",
    "TRANSITIONS",
    "claim",
    "count_by_state",
    "discard",
    "fail",
    "finish",
    "give_back",
    "is_any_due",
    "list_jobs",
    "release",
    "release_expired",
    "renew",
    "requeue",
    "set_aside",
]

LEASE_EXPIRED = "lease_expired"
MISSING_OBJECT = "missing_object"
GIVE_UP_AFTER = timedelta(days=7)
FEWEST_EXPIRIES = 20  # so that a clock that jumps ahead fails no job
LONGEST_WAIT_S = 3600.0

_IS_RELEASED = exists().where(Event.image_id == Job.image_id, Event.kind == EventKind.JOB_RELEASED).correlate(Job)


def claim(session: Session, *, worker_id: str, limit: int, now: datetime, lease_s: float) -> list[ClaimedJob]:
    """Claim the oldest due jobs.

    Parameters
    ----------
    session
        A write transaction.
    worker_id
        Claiming worker; unique among all workers.
    limit
        Maximum number.
    now
        Current time, aware.
    lease_s
        Duration of the lease without `renew`, in seconds.

    Returns
    -------
    list[ClaimedJob]
        Oldest first. A job whose object is no longer in the spool is not returned; it becomes failed with
        ``missing_object``.
    """
    oldest = _due(now).order_by(Job.id).limit(limit)
    claimed_ids = session.scalars(
        update(Job)
        .where(Job.id.in_(oldest), Job.state == JobState.QUEUED)
        .values(
            state=JobState.SCORING,
            worker_id=worker_id,
            lease_until=now + timedelta(seconds=lease_s),
            updated_at=now,
        )
        .returning(Job.id),
        execution_options={"synchronize_session": False},
    ).all()
    claimed = _claimed(session, claimed_ids)
    readable = {each.id for each in claimed}
    for job in select_jobs(session, Job.id.in_(claimed_ids)):
        facts = {"state": str(JobState.SCORING), "attempt": job.attempts + 1}
        append_event(
            session,
            EventKind.JOB_CLAIMED,
            now=now,
            image_id=job.image_id,
            job_id=job.id,
            facts=facts,
            seals=(("job", job.id),),
        )
        if job.id not in readable:
            _end_attempt(session, job, code=MISSING_OBJECT, is_last=True, not_before=None, now=now)
    return claimed


def is_any_due(session: Session, *, now: datetime) -> bool:
    """Return whether `claim` would return a job; needs no write transaction, so an idle worker blocks no other."""
    return session.scalar(_due(now).limit(1)) is not None


def _due(now: datetime) -> Select[int]:
    return select(Job.id).where(Job.state == JobState.QUEUED, or_(Job.not_before.is_(None), Job.not_before <= now))


def renew(
    session: Session, job_ids: Collection[int], *, worker_id: str, now: datetime, lease_s: float
) -> frozenset[int]:
    """Renew the leases of a worker's jobs.

    Returns
    -------
    frozenset[int]
        The jobs that the worker still holds; the leases of the others are lost.
    """
    renewed = session.scalars(
        update(Job)
        .where(
            Job.id.in_(job_ids),
            Job.state == JobState.SCORING,
            Job.worker_id == worker_id,
        )
        .values(lease_until=now + timedelta(seconds=lease_s))
        .returning(Job.id),
        execution_options={"synchronize_session": False},
    )
    return frozenset(renewed)


def finish(
    session: Session,
    job_id: int,
    *,
    worker_id: str,
    scored: ScoredImage,
    reports: Sequence[ReportRecord],
    destinations: Sequence[str],
    now: datetime,
) -> tuple[str, ...]:
    """Record the result: scores, reports, deliveries, state ``reported``.

    Parameters
    ----------
    session
        A write transaction.
    job_id
        A claimed job.
    worker_id
        Worker that claimed it.
    scored
        The model's output.
    reports
        Created objects, already durable in the spool.
    destinations
        Names of the destinations of each report.
    now
        Current time, aware.

    Returns
    -------
    tuple[str, ...]
        Spool names of unneeded reports: a report with the same UID exists already (the image was resent with
        earlier content), and a UID identifies one object.

    Raises
    ------
    LeaseLost
        If this worker no longer holds the job; nothing is written.
    MissingRow
        If there is no such job.
    """
    job = get_owned_job(session, job_id, worker_id)
    package_id = result_rows.write_scores(session, job.id, scored, now=now)
    unused = result_rows.write_reports(session, job.id, job.image_id, reports, destinations, now=now)
    facts: dict[str, FactValue] = {"attempt": job.attempts + 1, "fingerprint": scored.fingerprint}
    facts |= {f"score_{score.finding}": float(score.score) for score in scored.scores}
    move(
        session,
        job,
        JobState.REPORTED,
        EventKind.JOB_REPORTED,
        now=now,
        facts=facts,
        attempts=job.attempts + 1,
        error_code=None,
        package_id=package_id,
        device=scored.device,
        warnings=list(scored.warnings),
        scored_at=scored.scored_at,
    )
    return unused


def fail(
    session: Session,
    job_id: int,
    *,
    worker_id: str,
    code: str,
    retryable: bool,
    max_attempts: int,
    retry_s: float,
    now: datetime,
) -> JobState:
    """Record a failed attempt: queue the job again, or set it to ``failed``.

    Parameters
    ----------
    session
        A write transaction.
    job_id, worker_id
        Claimed job and its worker.
    code
        Code of the error.
    retryable
        Whether another attempt can succeed.
    max_attempts
        Maximum number of attempts.
    retry_s
        Wait after the first attempt, in seconds; doubled after each.
    now
        Current time, aware.

    Returns
    -------
    JobState
        ``QUEUED`` or ``FAILED``.

    Raises
    ------
    LeaseLost
        If this worker no longer holds the job.
    MissingRow
        If there is no such job.
    """
    job = get_owned_job(session, job_id, worker_id)
    is_last = not retryable or job.attempts + 1 >= max_attempts
    not_before = now + timedelta(seconds=retry_s * 2**job.attempts)
    return _end_attempt(session, job, code=code, is_last=is_last, not_before=not_before, now=now)


def set_aside(
    session: Session,
    job_id: int,
    *,
    worker_id: str,
    to: JobState,
    reason: str,
    facts: Mapping[str, FactValue],
    now: datetime,
) -> None:
    """Set an image to held or not scored because of its pixels.

    Parameters
    ----------
    session
        A write transaction.
    job_id, worker_id
        Claimed job and its worker. No attempt is counted.
    to
        ``HELD`` or ``NOT_SCORED``.
    reason
        A code of ``cxr.view.decide.PIXEL_REASONS``, stored as the image's reason.
    facts
        Figures for the event.
    now
        Current time, aware.

    Raises
    ------
    LeaseLost
        If this worker no longer holds the job.
    MissingRow
        If there is no such job.
    """
    job = get_owned_job(session, job_id, worker_id)
    move(
        session,
        job,
        to,
        EventKind.JOB_SET_ASIDE,
        now=now,
        facts={"reason": reason, **facts},
        reason=reason,
        not_before=None,
        error_code=None,
    )


def give_back(session: Session, *, worker_id: str, now: datetime) -> int:
    """Return the claimed jobs of a stopping worker to the queue; no attempt is counted.

    Returns
    -------
    int
        Number of jobs.
    """
    unfinished = select_jobs(session, Job.state == JobState.SCORING, Job.worker_id == worker_id)
    for job in unfinished:
        move(session, job, JobState.QUEUED, EventKind.JOB_GIVEN_BACK, now=now, not_before=None)
    return len(unfinished)


def release_expired(session: Session, *, retry_s: float, now: datetime) -> int:
    """Return jobs with expired leases to the queue; no attempt is counted.

    A worker that dies leaves all its claimed jobs, most of them not started. So a job is queued again: at once
    the first time, then after waits that double up to `LONGEST_WAIT_S` and differ between jobs, so that an image
    that kills its worker is soon claimed alone. A job fails only after `GIVE_UP_AFTER` and at least
    `FEWEST_EXPIRIES` expired leases.

    Parameters
    ----------
    session
        A write transaction.
    retry_s
        Wait after the second expiry, in seconds.
    now
        Current time, aware.

    Returns
    -------
    int
        Number of jobs.
    """
    stalled = select_jobs(session, Job.state == JobState.SCORING, Job.lease_until <= now)
    for job in stalled:
        earlier = _expiries(session, job.image_id)
        is_last = len(earlier) + 1 >= FEWEST_EXPIRIES and now - earlier[0] >= GIVE_UP_AFTER
        wait = min(retry_s * 2 ** (len(earlier) - 1), LONGEST_WAIT_S) if earlier else 0.0
        spread = 1 + job.id % 16 / 16
        move(
            session,
            job,
            JobState.FAILED if is_last else JobState.QUEUED,
            EventKind.JOB_FAILED if is_last else EventKind.JOB_LEASE_EXPIRED,
            now=now,
            facts={"code": LEASE_EXPIRED, "expired": len(earlier) + 1},
            not_before=now + timedelta(seconds=wait * spread) if earlier and not is_last else None,
            error_code=LEASE_EXPIRED,
        )
    return len(stalled)


def _expiries(session: Session, image_id: int) -> list[datetime]:
    """Return the times at which leases of an image's job expired since its last requeue, oldest first."""
    kinds = (EventKind.JOB_LEASE_EXPIRED, EventKind.JOB_REQUEUED)
    events = session.execute(
        select(Event.kind, Event.at).where(Event.image_id == image_id, Event.kind.in_(kinds)).order_by(Event.id)
    )
    expiries: list[datetime] = []
    for kind, at in events:
        expiries = [*expiries, at] if kind == EventKind.JOB_LEASE_EXPIRED else []
    return expiries


def _claimed(session: Session, job_ids: Sequence[int]) -> list[ClaimedJob]:
    rows = session.execute(
        select(
            Job.id,
            Job.image_id,
            (Job.attempts + 1).label("attempt"),
            Image.spool_name,
            Image.sop_class_uid,
            Image.sop_instance_uid,
            Image.study_instance_uid,
            Image.transfer_syntax_uid,
            Image.pixel_digest,
            Image.identity_digest,
            Image.peer_ae_title,
            Image.received_at,
            Decision.view,
            _IS_RELEASED.label("is_released"),
        )
        .join(Image, Image.id == Job.image_id)
        .join(Decision, Decision.image_id == Job.image_id)
        .where(Job.id.in_(job_ids), Image.spool_name.is_not(None))
        .order_by(Job.id)
    ).mappings()
    return [ClaimedJob(**row) for row in rows]


def _end_attempt(
    session: Session, job: CurrentJob, *, code: str, is_last: bool, not_before: datetime | None, now: datetime
) -> JobState:
    state = JobState.FAILED if is_last else JobState.QUEUED
    move(
        session,
        job,
        state,
        EventKind.JOB_FAILED if is_last else EventKind.JOB_RETRIED,
        now=now,
        facts={"attempt": job.attempts + 1, "code": code},
        attempts=job.attempts + 1,
        not_before=None if is_last else not_before,
        error_code=code,
    )
    return state
