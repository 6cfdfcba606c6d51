"""How many images and deliveries are in each state, without reading them.

Triggers keep the counts in the transaction that changes a state (``db.schema.views``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.schema.tables import Tally

State = TypeVar("State", bound=StrEnum)
Subject = Literal["job", "delivery"]


def count_by_state(session: Session, subject: Subject, states: type[State]) -> dict[State, int]:
    """Return how many rows are in each state; states without one are there with 0.

    Parameters
    ----------
    session
        A read transaction.
    subject
        Whose rows.
    states
        All that there are.
    """
    counted = session.execute(select(Tally.state, Tally.count).where(Tally.subject == subject))
    return dict.fromkeys(states, 0) | {states(state): count for state, count in counted}
