"""Deliveries: the way of each report to each destination, its states, claims and outcomes."""

from __future__ import annotations

from db.deliveries.outcomes import (
    check_again,
    claim,
    count_by_state,
    dead,
    give_back,
    list_deliveries,
    requeue,
    retry,
    sent,
    verified,
)

__all__ = [
    "check_again",
    "claim",
    "count_by_state",
    "dead",
    "give_back",
    "list_deliveries",
    "requeue",
    "retry",
    "sent",
    "verified",
]
