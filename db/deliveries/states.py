"""State machine of a delivery.

::

    pending ──▶ sent ──▶ verified
     ▲ │ ▲       │ │
     │ │ └───────┘ │  absent at the destination: send again
     │ └──▶ dead ◀─┘
     └───────┘        requeued by an operator
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.orm import Session

from cxr.domain import DeliveryState
from cxr.errors import LeaseLost, MissingRow, StorageError
from db.events import NO_FACTS, EventKind, append_event
from db.schema.records import FactValue
from db.schema.tables import Delivery, Job

TRANSITIONS: Mapping[DeliveryState, frozenset[DeliveryState]] = MappingProxyType(
    {
        # From a state to itself: the due time changes, and after a failed attempt its count, code and status.
        DeliveryState.PENDING: frozenset({DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.DEAD}),
        DeliveryState.SENT: frozenset(
            {DeliveryState.SENT, DeliveryState.VERIFIED, DeliveryState.PENDING, DeliveryState.DEAD}
        ),
        DeliveryState.VERIFIED: frozenset(),
        DeliveryState.DEAD: frozenset({DeliveryState.PENDING}),
    }
)

# id, report_id, job_id, image_id, state, attempts, sender_id
CurrentDelivery = Row[int, int, int, int, DeliveryState, int, str | None]


def get_delivery(
    session: Session,
    delivery_id: int,
    sender_id: str | None = None,
    expected: Collection[DeliveryState] = frozenset(DeliveryState),
) -> CurrentDelivery:
    """Return the current state of a delivery.

    Raises
    ------
    LeaseLost
        If ``sender_id`` is given and another sender has claimed it since.
    MissingRow
        If there is no such delivery.
    StorageError
        If its state is not one of ``expected``.
    """
    columns = select(
        Delivery.id,
        Delivery.report_id,
        Delivery.job_id,
        Job.image_id,
        Delivery.state,
        Delivery.attempts,
        Delivery.sender_id,
    )
    row = session.execute(columns.join(Job, Job.id == Delivery.job_id).where(Delivery.id == delivery_id)).first()
    if row is None:
        raise MissingRow(f"There is no delivery {delivery_id}: `cxr jobs list` lists the jobs.")
    if sender_id is not None and row.sender_id != sender_id:
        raise LeaseLost(f"Delivery {delivery_id} is no longer this sender's: its lease ran out.")
    if row.state not in expected:
        raise StorageError(
            f"Delivery {delivery_id} is {row.state}; this command needs one that is {' or '.join(sorted(expected))}."
        )
    return row


def move(
    session: Session,
    delivery: CurrentDelivery,
    to: DeliveryState,
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
    delivery
        Current state of the delivery.
    to
        New state; the lease is released.
    kind
        Kind of the event.
    now
        Current time, aware.
    facts
        Facts of the event besides the state.
    columns
        Other changed columns of the delivery.

    Raises
    ------
    StorageError
        If `TRANSITIONS` has no such transition.
    """
    if to not in TRANSITIONS[delivery.state]:
        raise StorageError(
            f"Delivery {delivery.id} is {delivery.state} and can't become {to}; from {delivery.state} it can become "
            f"{', '.join(sorted(TRANSITIONS[delivery.state])) or 'nothing else'}."
        )
    session.execute(
        update(Delivery)
        .where(Delivery.id == delivery.id)
        .values(**({"state": to, "sender_id": None, "lease_until": None, "updated_at": now} | columns)),
        execution_options={"synchronize_session": False},
    )
    append_event(
        session,
        kind,
        now=now,
        image_id=delivery.image_id,
        job_id=delivery.job_id,
        report_id=delivery.report_id,
        delivery_id=delivery.id,
        facts={"state": str(to), **facts},
        seals=(("delivery", delivery.id),),
    )
