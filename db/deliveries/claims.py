"""Claims of due deliveries, and their leases."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import and_, case, or_, select, update
from sqlalchemy.orm import Session

from cxr.domain import DeliveryState
from db.deliveries.states import get_delivery, move
from db.events import EventKind
from db.schema.records import ClaimedDelivery
from db.schema.tables import Delivery, Identity, Image, Job, Report

MISSING_OBJECT = "missing_object"


def claim(
    session: Session,
    *,
    destination: str,
    sender_id: str,
    limit: int,
    now: datetime,
    lease_s: float,
    states: Collection[DeliveryState] = (DeliveryState.PENDING, DeliveryState.SENT),
) -> list[ClaimedDelivery]:
    """Claim the due deliveries of one destination, to be sent or verified.

    Parameters
    ----------
    session
        A write transaction.
    destination
        Its name in the settings.
    sender_id
        Claiming sender; unique among all senders.
    limit
        Maximum number.
    now
        Current time, aware.
    lease_s
        Duration of the lease, in seconds; no other sender claims them meanwhile.
    states
        ``PENDING`` for deliveries to be sent, ``SENT`` for deliveries to be verified.

    Returns
    -------
    list[ClaimedDelivery]
        The longest due first. A delivery whose report is no longer in the spool is not returned; it becomes
        dead with ``missing_object``.
    """
    due = (
        select(Delivery.id)
        .where(Delivery.destination == destination, Delivery.state.in_(states), Delivery.due_at <= now)
        .where(or_(Delivery.lease_until.is_(None), Delivery.lease_until <= now))
        .order_by(Delivery.due_at, Delivery.id)
        .limit(limit)
    )
    claimed_ids = session.scalars(
        update(Delivery)
        .where(Delivery.id.in_(due))
        .values(sender_id=sender_id, lease_until=now + timedelta(seconds=lease_s))
        .returning(Delivery.id),
        execution_options={"synchronize_session": False},
    ).all()
    claimed = _claimed(session, claimed_ids)
    for lost in set(claimed_ids) - {each.id for each in claimed}:
        _give_up(session, lost, now=now)
    return claimed


def renew(
    session: Session, delivery_ids: Collection[int], *, sender_id: str, now: datetime, lease_s: float
) -> frozenset[int]:
    """Renew the leases of a sender's deliveries; return the deliveries that it still holds."""
    renewed = session.scalars(
        update(Delivery)
        .where(Delivery.id.in_(delivery_ids), Delivery.sender_id == sender_id)
        .values(lease_until=now + timedelta(seconds=lease_s))
        .returning(Delivery.id),
        execution_options={"synchronize_session": False},
    )
    return frozenset(renewed)


def give_back(session: Session, *, sender_id: str) -> None:
    """Release all leases of a stopping sender."""
    session.execute(
        update(Delivery)
        .where(Delivery.sender_id == sender_id, Delivery.lease_until.is_not(None))  # a claimed delivery has a lease
        .values(sender_id=None, lease_until=None),
        execution_options={"synchronize_session": False},
    )


def _give_up(session: Session, delivery_id: int, *, now: datetime) -> None:
    facts = {"code": MISSING_OBJECT}
    delivery = get_delivery(session, delivery_id)
    columns = {"error_code": MISSING_OBJECT, "due_at": None}
    move(session, delivery, DeliveryState.DEAD, EventKind.DELIVERY_DEAD, now=now, facts=facts, **columns)


def _claimed(session: Session, delivery_ids: Sequence[int]) -> list[ClaimedDelivery]:
    rows = session.execute(
        select(
            Delivery.id,
            Delivery.report_id,
            Delivery.job_id,
            Delivery.destination,
            Delivery.state,
            Delivery.attempts,
            Delivery.created_at,
            Delivery.requeued_at,
            Report.spool_name,
            Report.sop_class_uid,
            Report.sop_instance_uid,
            case((Identity.kind.is_(None), Image.study_instance_uid), else_=None).label("study_instance_uid"),
            Report.series_instance_uid,
            Delivery.delivered_sop_class_uid,
            Delivery.delivered_sop_instance_uid,
        )
        .join(Report, Report.id == Delivery.report_id)
        .join(Job, Job.id == Delivery.job_id)
        .join(Image, Image.id == Job.image_id)
        .outerjoin(Identity, and_(Identity.image_id == Image.id, Identity.kind != "full"))
        .where(Delivery.id.in_(delivery_ids), Report.spool_name.is_not(None))
        .order_by(Delivery.due_at, Delivery.id)
    ).mappings()
    return [ClaimedDelivery(**row) for row in rows]
