"""Named leases: tasks that only one process of an installation may run at a time."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from db.schema.tables import Lease


def hold(session: Session, *, name: str, holder: str, ttl_s: float, now: datetime) -> bool:
    """Take or renew a lease that is free, expired or held by ``holder``.

    A lease that ends more than twice ``ttl_s`` ahead was granted before the clock was set back; it counts as expired.

    Parameters
    ----------
    session
        A write transaction.
    name
        Name of the lease, such as ``maintenance``.
    holder
        Holder; unique among all processes.
    ttl_s
        Duration without renewal, in seconds.
    now
        Current time, aware.

    Returns
    -------
    bool
        Whether the holder now holds the lease.
    """
    values = {"holder": holder, "expires_at": now + timedelta(seconds=ttl_s)}
    ahead = now + timedelta(seconds=2 * ttl_s)
    statement = (
        insert(Lease)
        .values(name=name, **values)
        .on_conflict_do_update(
            index_elements=[Lease.name],
            set_=values,
            where=or_(Lease.holder == holder, Lease.expires_at <= now, Lease.expires_at > ahead),
        )
        .returning(Lease.name)
    )
    return session.execute(statement).first() is not None


def is_held(session: Session, *, name: str, now: datetime) -> bool:
    """Return whether a lease is held.

    Parameters
    ----------
    session
        Any transaction.
    name
        Name of the lease.
    now
        Current time, aware.
    """
    return session.scalar(select(Lease.name).where(Lease.name == name, Lease.expires_at > now)) is not None


def release_hold(session: Session, *, name: str, holder: str) -> None:
    """Release a lease before its end, if ``holder`` holds it."""
    session.execute(delete(Lease).where(Lease.name == name, Lease.holder == holder))
