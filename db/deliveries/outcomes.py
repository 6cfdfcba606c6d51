"""Outcomes of delivery attempts.

An outcome with a ``sender_id`` is refused if that sender has lost its lease.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from cxr.domain import DeliveryState
from db.deliveries.claims import claim, give_back, renew
from db.deliveries.operator_actions import count_by_state, list_deliveries, requeue
from db.deliveries.states import TRANSITIONS, get_delivery, move
from db.events import EventKind

__all__ = [
    "TRANSITIONS",
    "check_again",
    "claim",
    "count_by_state",
    "give_back",
    "give_up",
    "list_deliveries",
    "mark_sent",
    "mark_verified",
    "renew",
    "requeue",
    "retry",
]

PENDING = frozenset({DeliveryState.PENDING})
SENT = frozenset({DeliveryState.SENT})


def mark_sent(
    session: Session,
    delivery_id: int,
    *,
    status: int | None,
    sop_class_uid: str,
    sop_instance_uid: str,
    verify_at: datetime | None,
    now: datetime,
    sender_id: str | None = None,
) -> None:
    """Record that the destination accepted the report.

    Parameters
    ----------
    session
        A write transaction.
    delivery_id
        Delivery.
    status
        DIMSE or HTTP status of the response; None: the protocol has none.
    sop_class_uid, sop_instance_uid
        UIDs of the sent object: a fallback has its own.
    verify_at
        Due time of the verification; None: never, ``sent`` is final.
    now
        Current time, aware.
    sender_id
        Claiming sender; None: the lease is not checked.

    Raises
    ------
    LeaseLost
        If another sender has claimed it since.
    MissingRow
        If there is no such delivery.
    StorageError
        If it is not ``pending``.
    """
    delivery = get_delivery(session, delivery_id, sender_id, expected=PENDING)
    move(
        session,
        delivery,
        DeliveryState.SENT,
        EventKind.DELIVERY_SENT,
        now=now,
        facts={"status": status, "attempt": delivery.attempts + 1},
        attempts=delivery.attempts + 1,
        status=status,
        error_code=None,
        delivered_sop_class_uid=sop_class_uid,
        delivered_sop_instance_uid=sop_instance_uid,
        sent_at=now,
        due_at=verify_at,
    )


def mark_verified(
    session: Session, delivery_id: int, *, verified_by: str, now: datetime, sender_id: str | None = None
) -> None:
    """Record that the destination stores the report.

    Parameters
    ----------
    session
        A write transaction.
    delivery_id
        Delivery.
    verified_by
        Method, a code such as ``commitment`` or ``find``.
    now
        Current time, aware.
    sender_id
        Claiming sender; None: the lease is not checked.

    Raises
    ------
    LeaseLost
        If another sender has claimed it since.
    MissingRow
        If there is no such delivery.
    StorageError
        If it is not ``sent``.
    """
    move(
        session,
        get_delivery(session, delivery_id, sender_id),
        DeliveryState.VERIFIED,
        EventKind.DELIVERY_VERIFIED,
        now=now,
        facts={"by": verified_by},
        verified_at=now,
        verified_by=verified_by,
        error_code=None,
        due_at=None,
    )


def retry(
    session: Session,
    delivery_id: int,
    *,
    code: str,
    status: int | None,
    not_before: datetime,
    now: datetime,
    sender_id: str | None = None,
) -> None:
    """Record a failed attempt and the time of the next one.

    Parameters
    ----------
    session
        A write transaction.
    delivery_id
        A pending delivery, or a sent one that is absent at the destination.
    code
        Code of the error.
    status
        DIMSE or HTTP status of the response, if any.
    not_before
        Due time of the next attempt.
    now
        Current time, aware.
    sender_id
        Claiming sender; None: the lease is not checked.

    Raises
    ------
    LeaseLost
        If another sender has claimed it since.
    MissingRow
        If there is no such delivery.
    StorageError
        If it is verified or dead.
    """
    delivery = get_delivery(session, delivery_id, sender_id, expected=PENDING | SENT)
    attempts = delivery.attempts + (delivery.state is DeliveryState.PENDING)
    move(
        session,
        delivery,
        DeliveryState.PENDING,
        EventKind.DELIVERY_POSTPONED,
        now=now,
        facts={"code": code, "status": status, "attempt": attempts},
        attempts=attempts,
        error_code=code,
        status=status,
        due_at=not_before,
    )


def check_again(
    session: Session, delivery_id: int, *, check_at: datetime | None, now: datetime, sender_id: str | None = None
) -> None:
    """Record that a verification had no result; the delivery stays ``sent``.

    Parameters
    ----------
    session
        A write transaction.
    delivery_id
        Delivery.
    check_at
        Due time of the next verification; None: never.
    now
        Current time, aware.
    sender_id
        Claiming sender; None: the lease is not checked.

    Raises
    ------
    LeaseLost
        If another sender has claimed it since.
    MissingRow
        If there is no such delivery.
    StorageError
        If it is not ``sent``.
    """
    delivery = get_delivery(session, delivery_id, sender_id, expected=SENT)
    move(session, delivery, DeliveryState.SENT, EventKind.DELIVERY_POSTPONED, now=now, due_at=check_at)


def give_up(
    session: Session,
    delivery_id: int,
    *,
    code: str,
    status: int | None,
    now: datetime,
    sender_id: str | None = None,
) -> None:
    """Set a delivery to ``dead``: no more attempts until an operator requeues it.

    Parameters
    ----------
    session
        A write transaction.
    delivery_id
        A pending delivery, or a sent one that is absent at the destination.
    code
        Code of the error.
    status
        DIMSE or HTTP status of the response, if any.
    now
        Current time, aware.
    sender_id
        Claiming sender; None: the lease is not checked.

    Raises
    ------
    LeaseLost
        If another sender has claimed it since.
    MissingRow
        If there is no such delivery.
    StorageError
        If it is verified or dead already.
    """
    delivery = get_delivery(session, delivery_id, sender_id)
    attempts = delivery.attempts + (delivery.state is DeliveryState.PENDING)
    move(
        session,
        delivery,
        DeliveryState.DEAD,
        EventKind.DELIVERY_DEAD,
        now=now,
        facts={"code": code, "status": status, "attempt": attempts},
        attempts=attempts,
        error_code=code,
        status=status,
        due_at=None,
    )
