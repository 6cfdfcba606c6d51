"""Jobs: claims, leases, transitions, results."""

from __future__ import annotations

from db.jobs.queue import (
    MISSING_OBJECT,
    claim,
    count_by_state,
    discard,
    fail,
    finish,
    give_back,
    is_any_due,
    list_jobs,
    release,
    release_expired,
    renew,
    requeue,
    set_aside,
)
from db.jobs.result_rows import write_delivery
from db.jobs.states import INITIAL_STATES

__all__ = [
    "INITIAL_STATES",
    "MISSING_OBJECT",
    "claim",
    "count_by_state",
    "discard",
    "fail",
    "finish",
    "give_back",
    "is_any_due",
    "list_jobs",
    "release",
    "release_expired",
    "renew",
    "requeue",
    "set_aside",
    "write_delivery",
]
