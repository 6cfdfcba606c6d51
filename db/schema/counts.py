"""Counts of jobs and deliveries by state, from the table ``tally``.

Triggers update the counts in the transaction of a change of state (``db.schema.views``).
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
    """Return the number of rows in each state, zeros included.

    Parameters
    ----------
    session
        A read transaction.
    subject
        Jobs or deliveries.
    states
        The enumeration of their states.
    """
    counted = session.execute(select(Tally.state, Tally.count).where(Tally.subject == subject))
    return dict.fromkeys(states, 0) | {states(state): count for state, count in counted}
