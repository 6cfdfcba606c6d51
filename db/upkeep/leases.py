"""Who may do what only one process of an installation may do at a time."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from db.schema.tables import Lease


def hold(session: Session, *, name: str, holder: str, ttl_s: float, now: datetime) -> bool:
    """Take a lease that is free, expired or ours already; renew it well before it ends.

    One that ends later than any that could be given now was given by a clock that has been set back
    since, and counts as expired.

    Parameters
    ----------
    session
        A write transaction.
    name
        What is leased, such as ``maintenance``.
    holder
        Who asks; unique among all processes.
    ttl_s
        How long it is ours without being renewed.
    now
        The time.

    Returns
    -------
    bool
        Whether the holder has it now.
    """
    wanted = {"holder": holder, "expires_at": now + timedelta(seconds=ttl_s)}
    ahead = now + timedelta(seconds=2 * ttl_s)
    statement = (
        insert(Lease)
        .values(name=name, **wanted)
        .on_conflict_do_update(
            index_elements=[Lease.name],
            set_=wanted,
            where=or_(Lease.holder == holder, Lease.expires_at <= now, Lease.expires_at > ahead),
        )
        .returning(Lease.name)
    )
    return session.execute(statement).first() is not None


def is_held(session: Session, *, name: str, now: datetime) -> bool:
    """Whether somebody holds a lease at this time.

    Parameters
    ----------
    session
        Any transaction.
    name
        What is leased.
    now
        The time.
    """
    return session.scalar(select(Lease.name).where(Lease.name == name, Lease.expires_at > now)) is not None


def release_hold(session: Session, *, name: str, holder: str) -> None:
    """Give a lease back before its end; another's lease is left alone."""
    session.execute(delete(Lease).where(Lease.name == name, Lease.holder == holder))
