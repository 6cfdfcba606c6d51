"""The append-only event log, chained by HMAC."""

from __future__ import annotations

from db.events.chain_key import load_or_create_key
from db.events.log import AUDIT_KEY, NO_FACTS, EventKind, append_event, has_event, is_own_key, read_head, verify_chain
from db.events.seals import SUBJECTS, Row, rows_of, stored_digest

__all__ = [
    "AUDIT_KEY",
    "NO_FACTS",
    "SUBJECTS",
    "EventKind",
    "Row",
    "append_event",
    "has_event",
    "is_own_key",
    "load_or_create_key",
    "read_head",
    "rows_of",
    "stored_digest",
    "verify_chain",
]
