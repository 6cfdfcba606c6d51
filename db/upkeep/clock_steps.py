"""What a clock that has been set back leaves behind: plans and leases that seem to lie far ahead.

A machine starts with a clock that is wrong, or an operator sets it; until the wrong time comes round,
a retry would wait and a dead worker's lease would last. A clock that jumps ahead needs nothing here:
what was planned is due, and leases are over.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, case, func, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from cxr.domain import JobState
from db.schema.tables import Delivery, Event, Job

SLACK = timedelta(minutes=1)
"""A clock that is trimmed by less was not set."""


def bring_future_times_forward(session: Session, *, now: datetime, job_lease_s: float, delivery_lease_s: float) -> int:
    """Bring forward what was planned when the clock was ahead.

    What was planned in what is now the future is due; a lease that ends later than any that could be
    given now ends after one lease, so that a worker or sender that lives can renew it. States stay.

    Parameters
    ----------
    session
        A write transaction.
    now
        The time.
    job_lease_s, delivery_lease_s
        How long leases are given for, in seconds.

    Returns
    -------
    int
        How many jobs and deliveries had been changed in the future; 0 while the clock is right.
    """
    _shorten(session, Job, Job.lease_until, now=now, lease_s=job_lease_s)
    _shorten(session, Delivery, Delivery.lease_until, now=now, lease_s=delivery_lease_s)
    future = now + SLACK
    # Whatever changes such a row writes an event of the same time; without one there, no row is looked at.
    latest = session.scalar(select(func.max(Event.at)))
    if latest is None or latest <= future:
        return 0
    jobs = session.scalars(
        update(Job)
        .where(Job.updated_at > future)
        # Not while it is scored: its worker may live, and the row is then changed by its outcome.
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
