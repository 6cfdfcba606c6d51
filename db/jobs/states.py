"""State machine of a job.

::

    held ──▶ queued ──▶ scoring ──▶ reported
      │        ▲           │
      ▼        ├───────────┤ attempt failed, lease expired, given back
    not_scored │           ├──▶ held, not_scored: set aside because of its pixels
      ▲        │           ▼
      │        └─────── failed
      └───────────────────┘  discarded

Forgetting a patient sets every unfinished job to ``not_scored``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, Row, select, update
from sqlalchemy.orm import Session

from cxr.domain import JobState
from cxr.errors import LeaseLost, MissingRow, StorageError
from db.events import NO_FACTS, EventKind, append_event
from db.schema.records import FactValue
from db.schema.tables import Image, Job

INITIAL_STATES = frozenset({JobState.HELD, JobState.QUEUED, JobState.NOT_SCORED})
TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.HELD: frozenset({JobState.QUEUED, JobState.NOT_SCORED}),
        JobState.QUEUED: frozenset({JobState.SCORING, JobState.NOT_SCORED}),
        JobState.SCORING: frozenset(
            {JobState.REPORTED, JobState.QUEUED, JobState.FAILED, JobState.HELD, JobState.NOT_SCORED}
        ),
        JobState.FAILED: frozenset({JobState.QUEUED, JobState.NOT_SCORED}),
        JobState.REPORTED: frozenset(),
        JobState.NOT_SCORED: frozenset(),
    }
)

CurrentJob = Row[int, int, JobState, int, str | None]  # id, image_id, state, attempts, worker_id


def select_jobs(session: Session, *conditions: ColumnElement[bool]) -> Sequence[CurrentJob]:
    """Return the jobs that match all conditions, oldest first."""
    columns = select(Job.id, Job.image_id, Job.state, Job.attempts, Job.worker_id)
    return session.execute(columns.where(*conditions).order_by(Job.id)).all()


def get_job(session: Session, job_id: int, expected: JobState | None = None) -> CurrentJob:
    """Return the current state of a job.

    Raises
    ------
    MissingRow
        If there is no such job.
    StorageError
        If its state is not ``expected``.
    """
    jobs = select_jobs(session, Job.id == job_id)
    if not jobs:
        raise MissingRow(f"There is no job {job_id}: `cxr jobs list` lists the jobs.")
    if expected is not None and jobs[0].state is not expected:
        raise StorageError(f"Job {job_id} is {jobs[0].state}; accepted is a job that is {expected}.")
    return jobs[0]


def get_owned_job(session: Session, job_id: int, worker_id: str) -> CurrentJob:
    """Return a job if this worker holds its lease.

    Raises
    ------
    LeaseLost
        If the worker no longer holds it.
    MissingRow
        If there is no such job.
    """
    job = get_job(session, job_id)
    if job.state is not JobState.SCORING or job.worker_id != worker_id:
        raise LeaseLost(f"Job {job_id} is no longer this worker's: its lease ran out; the attempt's result is dropped.")
    return job


def check_pixels(session: Session, job: CurrentJob) -> None:
    """Check that the image of a job is still in the spool.

    Raises
    ------
    MissingRow
        If it is not.
    """
    if session.scalar(select(Image.spool_name).where(Image.id == job.image_id)) is None:
        raise MissingRow(f"The pixels of job {job.id} are not kept: send the image again, which puts them back.")


def move(
    session: Session,
    job: CurrentJob,
    to: JobState,
    kind: EventKind,
    *,
    now: datetime,
    facts: Mapping[str, FactValue] = NO_FACTS,
    **columns: Any,  # noqa: ANN401 (any column's value)
) -> None:
    """Make a transition of `TRANSITIONS` and write its event, in the session's transaction.

    Parameters
    ----------
    session
        A write transaction.
    job
        Current state of the job.
    to
        New state; the lease is released.
    kind
        Kind of the event.
    now
        Current time, aware.
    facts
        Facts of the event besides the state.
    columns
        Other changed columns of the job.

    Raises
    ------
    StorageError
        If `TRANSITIONS` has no such transition.
    """
    if to not in TRANSITIONS[job.state]:
        raise StorageError(
            f"Job {job.id} is {job.state} and can't become {to}; from {job.state} a job can become "
            f"{', '.join(sorted(TRANSITIONS[job.state])) or 'nothing else'}."
        )
    session.execute(
        update(Job)
        .where(Job.id == job.id)
        .values(**({"state": to, "worker_id": None, "lease_until": None, "updated_at": now} | columns)),
        execution_options={"synchronize_session": False},
    )
    append_event(
        session,
        kind,
        now=now,
        image_id=job.image_id,
        job_id=job.id,
        facts={"state": str(to), **facts},
        seals=(("job", job.id),),
    )
