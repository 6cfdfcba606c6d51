"""Actions of an operator on deliveries: list, count, requeue."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from cxr.domain import DeliveryState
from cxr.errors import MissingRow
from db.deliveries.states import get_delivery, move
from db.events import NO_FACTS, EventKind
from db.schema import counts
from db.schema.records import DeliveryRow, FactValue
from db.schema.tables import Delivery, Report


def requeue(session: Session, delivery_id: int, now: datetime, *, by: Mapping[str, FactValue] = NO_FACTS) -> None:
    """Return a dead delivery to ``pending`` with no attempts; ``by``: facts of ``db.events.account.account_facts``.

    Raises
    ------
    MissingRow
        If there is no such delivery, or its report is no longer kept.
    StorageError
        If it is not dead.
    """
    delivery = get_delivery(session, delivery_id, expected=frozenset({DeliveryState.DEAD}))
    if session.scalar(select(Report.spool_name).where(Report.id == delivery.report_id)) is None:
        raise MissingRow(
            f"The report of delivery {delivery_id} is no longer kept, so it can't be sent; see `cxr audit show`."
        )
    move(
        session,
        delivery,
        DeliveryState.PENDING,
        EventKind.DELIVERY_REQUEUED,
        now=now,
        facts=by,
        attempts=0,
        error_code=None,
        status=None,
        due_at=now,
        requeued_at=now,
    )


def list_deliveries(
    session: Session,
    *,
    state: DeliveryState | None = None,
    destination: str | None = None,
    limit: int | None = None,
    before_id: int | None = None,
) -> list[DeliveryRow]:
    """Return deliveries for an operator, latest first.

    Parameters
    ----------
    session
        Any transaction.
    state, destination
        Only these; None: all.
    limit
        Maximum number; None: all, for a short history only.
    before_id
        Only earlier deliveries than this one; None: all.
    """
    query = select(*(getattr(Delivery, name) for name in DeliveryRow.__dataclass_fields__))
    if state is not None:
        query = query.where(Delivery.state == state)
    if destination is not None:
        query = query.where(Delivery.destination == destination)
    if before_id is not None:
        query = query.where(Delivery.id < before_id)
    return [DeliveryRow(**row) for row in session.execute(query.order_by(Delivery.id.desc()).limit(limit)).mappings()]


def count_by_state(session: Session) -> dict[DeliveryState, int]:
    """Return the number of deliveries in each state, zeros included."""
    return counts.count_by_state(session, "delivery", DeliveryState)
