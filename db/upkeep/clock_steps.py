"""Repair due times and leases left in the future after the clock was set back.

A machine may start with a wrong clock, or an operator sets it. Until the wrong time is reached again, retries would
wait and the leases of dead workers would last. After a clock jumps ahead nothing needs repair: due times have
passed and leases have expired.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, case, func, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from cxr.domain import JobState
from db.schema.tables import Delivery, Event, Job

SLACK = timedelta(minutes=1)
"""Smaller corrections of the clock are ignored."""


def bring_future_times_forward(session: Session, *, now: datetime, job_lease_s: float, delivery_lease_s: float) -> int:
    """Bring due times and leases forward that were set while the clock was ahead.

    Jobs and deliveries that were changed in the future become due; leases are shortened to one full lease from now,
    so that a living worker or sender can renew them. States stay.

    Parameters
    ----------
    session
        A write transaction.
    now
        Current time, aware.
    job_lease_s, delivery_lease_s
        Duration of a lease, in seconds.

    Returns
    -------
    int
        Number of jobs and deliveries that had been changed in the future; 0 while the clock is right.
    """
    _shorten(session, Job, Job.lease_until, now=now, lease_s=job_lease_s)
    _shorten(session, Delivery, Delivery.lease_until, now=now, lease_s=delivery_lease_s)
    future = now + SLACK
    # A change of such a row writes an event of the same time: without a future event no row is read.
    latest = session.scalar(select(func.max(Event.at)))
    if latest is None or latest <= future:
        return 0
    jobs = session.scalars(
        update(Job)
        .where(Job.updated_at > future)
        # Not while it is scored: its worker may be alive, and its outcome changes the row.
        .where(Job.state != JobState.SCORING)
        .values(updated_at=now, not_before=_not_after(Job.not_before, now))
        .returning(Job.id),
        execution_options={"synchronize_session": False},
    ).all()
    deliveries = session.scalars(
        update(Delivery)
        .where(Delivery.updated_at > future)
        .values(updated_at=now, due_at=_not_after(Delivery.due_at, now))
        .returning(Delivery.id),
        execution_options={"synchronize_session": False},
    ).all()
    return len(jobs) + len(deliveries)


def _shorten(
    session: Session,
    table: type[Job | Delivery],
    lease_until: InstrumentedAttribute[datetime | None],
    *,
    now: datetime,
    lease_s: float,
) -> None:
    session.execute(
        update(table)
        .where(lease_until > now + timedelta(seconds=lease_s) + SLACK)
        .values(lease_until=now + timedelta(seconds=lease_s)),
        execution_options={"synchronize_session": False},
    )


def _not_after(column: InstrumentedAttribute[datetime | None], now: datetime) -> ColumnElement[datetime | None]:
    return case((column > now, now), else_=column)
