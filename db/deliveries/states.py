"""The legal transitions of a delivery, and the one function that makes them.

::

    pending ──▶ sent ──▶ verified
     ▲ │ ▲       │ │
     │ │ └───────┘ │  not found at the destination: send again
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
        # A state that leads to itself: a try changed nothing but the time of the next.
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
    """Return a delivery as it stands.

    Raises
    ------
    LeaseLost
        If a sender is given and another one has it now.
    MissingRow
        If there is no such delivery.
    StorageError
        If it is in a state that is not expected.
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
    found = session.execute(columns.join(Job, Job.id == Delivery.job_id).where(Delivery.id == delivery_id)).first()
    if found is None:
        raise MissingRow(f"There is no delivery {delivery_id}: `cxr jobs list` shows what there is.")
    if sender_id is not None and found.sender_id != sender_id:
        raise LeaseLost(f"Delivery {delivery_id} is no longer this sender's: its lease ran out.")
    if found.state not in expected:
        raise StorageError(
            f"Delivery {delivery_id} is {found.state}; only one that is {' or '.join(sorted(expected))} is taken here."
        )
    return found


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
    """Change a delivery's state along the table and write the event of it, in one transaction.

    Parameters
    ----------
    session
        A write transaction.
    delivery
        The delivery as it stands.
    to
        Its new state. The lease ends with the old one.
    kind
        The event.
    now
        The time.
    facts
        Facts of the event besides the state.
    columns
        What else changes in the delivery's row.

    Raises
    ------
    StorageError
        If the table has no such transition.
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
