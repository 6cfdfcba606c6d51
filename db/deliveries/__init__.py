"""Deliveries: claims, states and outcomes of each report to each destination."""

from __future__ import annotations

from db.deliveries.outcomes import (
    check_again,
    claim,
    count_by_state,
    give_back,
    give_up,
    list_deliveries,
    mark_sent,
    mark_verified,
    requeue,
    retry,
)

__all__ = [
    "check_again",
    "claim",
    "count_by_state",
    "give_back",
    "give_up",
    "list_deliveries",
    "mark_sent",
    "mark_verified",
    "requeue",
    "retry",
]
