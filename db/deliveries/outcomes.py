"""Reports on their way: which is due at which destination, and what came of each try.

Each destination is asked for alone, so one that hangs holds up no other. A sender may tell who it is
with each outcome: then one that lost its lease can't write.
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
    """Write down that the destination took the report.

    Parameters
    ----------
    session
        A write transaction.
    delivery_id
        Which delivery.
    status
        The destination's answer: a DIMSE or HTTP status; None: it gives none.
    sop_class_uid, sop_instance_uid
        What was really sent: a fallback has UIDs of its own.
    verify_at
        When to check that it is there; None: never, ``sent`` is the end.
    now
        The time.
    sender_id
        Who claimed it, if that is to be checked.

    Raises
    ------
    LeaseLost
        If another sender has it now.
    MissingRow
        If there is no such delivery.
    StorageError
        If it is not to be sent.
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
    """Write down that the destination has the report.

    Parameters
    ----------
    session
        A write transaction.
    delivery_id
        Which delivery.
    verified_by
        How that is known: a code such as ``commitment`` or ``find``.
    now
        The time.
    sender_id
        Who claimed it, if that is to be checked.

    Raises
    ------
    LeaseLost
        If another sender has it now.
    MissingRow
        If there is no such delivery.
    StorageError
        If it was not sent.
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
    """Write down that a try failed and the report is to be sent (again) later.

    Parameters
    ----------
    session
        A write transaction.
    delivery_id
        A pending delivery, or one that was sent and is not at the destination.
    code
        Why: the error's code.
    status
        The destination's answer, if it gave one.
    not_before
        When to try again.
    now
        The time.
    sender_id
        Who claimed it, if that is to be checked.

    Raises
    ------
    LeaseLost
        If another sender has it now.
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
    """Write down that it could not be told whether a sent report arrived; it stays ``sent``.

    Parameters
    ----------
    session
        A write transaction.
    delivery_id
        Which delivery.
    check_at
        When to look again; None: never.
    now
        The time.
    sender_id
        Who claimed it, if that is to be checked.

    Raises
    ------
    LeaseLost
        If another sender has it now.
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
    """Write down that nothing more is tried until an operator requeues it.

    Parameters
    ----------
    session
        A write transaction.
    delivery_id
        A pending delivery, or one that was sent and never arrived.
    code
        Why: the error's code.
    status
        The destination's answer, if it gave one.
    now
        The time.
    sender_id
        Who claimed it, if that is to be checked.

    Raises
    ------
    LeaseLost
        If another sender has it now.
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
