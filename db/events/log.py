"""The event log: append-only, and chained so that changes made without the key are detected.

Every event has an HMAC-SHA256 of itself and the hash of the event before it. An edit, a deletion or an insertion
breaks the chain at that row. A truncated log is still a valid chain, so the hash of the last event is exported
every minute (`export_head`), and the check compares with it.

Facts of events are integers of the database, codes and figures, never identifiers.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cxr.errors import StorageError
from db.events.seals import Row
from db.events.seals import facts as seal_facts
from db.schema import tables
from db.schema.insert import add_row
from db.schema.records import ChainReport, FactValue, Head
from db.schema.statements import Query
from db.sqlite.copy_database import translate
from db.sqlite.driver import sqlite3

AUDIT_KEY = "audit_key"  # key in a session's info
FIRST = "0" * 64  # previous hash of the first event
NO_FACTS: Mapping[str, FactValue] = MappingProxyType({})

_EVENT = tables.Event.__table__.c
_LAST = Query(select(_EVENT.id, _EVENT.hash, _EVENT.at).order_by(_EVENT.id.desc()).limit(1))
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}|[0-9a-f]{64}")  # a code, or a digest
ACCOUNT = "account"  # fact: account of an operator's process
_ACCOUNT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\$?")
_TIME = "%Y-%m-%d %H:%M:%S.%f"  # as UtcTime is stored
_COLUMNS = ("id", "at", "kind", "image_id", "job_id", "report_id", "delivery_id", "facts")


class EventKind(StrEnum):
    """Kinds of events. Events that change the state of a job or delivery have the fact ``state``."""

    DATABASE_CREATED = "database_created"
    SCHEMA_UPGRADED = "schema_upgraded"
    ROWS_SEALED = "rows_sealed"
    JOURNAL_CHANGED = "journal_changed"
    RECEIVED = "received"
    RESENT = "resent"
    CHANGED_RESEND = "changed_resend"
    JOB_CLAIMED = "job_claimed"
    JOB_REPORTED = "job_reported"
    JOB_RETRIED = "job_retried"
    JOB_FAILED = "job_failed"
    JOB_GIVEN_BACK = "job_given_back"
    JOB_LEASE_EXPIRED = "job_lease_expired"
    JOB_SET_ASIDE = "job_set_aside"
    JOB_RELEASED = "job_released"
    JOB_REQUEUED = "job_requeued"
    JOB_DISCARDED = "job_discarded"
    REPORT_WRITTEN = "report_written"
    REPORT_REUSED = "report_reused"
    DELIVERY_CREATED = "delivery_created"
    DELIVERY_SENT = "delivery_sent"
    DELIVERY_VERIFIED = "delivery_verified"
    DELIVERY_POSTPONED = "delivery_postponed"
    DELIVERY_DEAD = "delivery_dead"
    DELIVERY_REQUEUED = "delivery_requeued"
    PACKAGE_RECORDED = "package_recorded"
    PACKAGE_ACTIVATED = "package_activated"
    SHADOW_CHANGED = "shadow_changed"
    SHADOW_SCORED = "shadow_scored"
    SHADOW_GIVEN_UP = "shadow_given_up"
    REBUILD_STARTED = "rebuild_started"
    REBUILD_ENDED = "rebuild_ended"
    PIXELS_REMOVED = "pixels_removed"
    PIXELS_RESTORED = "pixels_restored"
    REPORT_REMOVED = "report_removed"
    COMMITMENT_REQUESTED = "commitment_requested"
    COMMITMENT_REPORTED = "commitment_reported"
    COMMITMENT_POSTPONED = "commitment_postponed"
    COMMITMENT_DEAD = "commitment_dead"
    PATIENT_FORGOTTEN = "patient_forgotten"
    IDENTIFIERS_CHANGED = "identifiers_changed"
    OBJECT_QUARANTINED = "object_quarantined"
    QUARANTINE_EMPTIED = "quarantine_emptied"
    BACKUP_MADE = "backup_made"
    INTEGRITY_CHECKED = "integrity_checked"
    SERVICE_STARTED = "service_started"
    SERVICE_STOPPED = "service_stopped"


def append_event(
    session: Session,
    kind: EventKind,
    *,
    now: datetime,
    image_id: int | None = None,
    job_id: int | None = None,
    report_id: int | None = None,
    delivery_id: int | None = None,
    facts: Mapping[str, FactValue] = NO_FACTS,
    seals: Sequence[Row] = (),
) -> None:
    """Append an event, in the transaction of the change that it records.

    Parameters
    ----------
    session
        A write transaction.
    kind
        Kind of the event.
    now
        Time of the event, aware.
    image_id, job_id, report_id, delivery_id
        Ids of the rows concerned.
    facts
        Figures, codes (lower case, digits, underscore) and digests (64 hexadecimal digits).
    seals
        Created or changed rows, whose columns are all written (`db.events.seals`).

    Raises
    ------
    StorageError
        If a fact is neither a figure nor a code nor a digest: it could identify a person.
    """
    _check_facts(facts)
    if seals:
        session.flush()
        facts = {**facts, **seal_facts(session, session.info[AUDIT_KEY], seals)}
    last = _LAST.first(session)
    previous_id, previous = (last["id"], last["hash"]) if last else (0, FIRST)
    columns: dict[str, Any] = {
        "id": previous_id + 1,
        "at": now.astimezone(UTC).strftime(_TIME),
        "kind": str(kind),
        "image_id": image_id,
        "job_id": job_id,
        "report_id": report_id,
        "delivery_id": delivery_id,
        "facts": _canonical(dict(facts)),
    }
    chained = _hash(session, columns, previous)
    add_row(session, tables.Event, **(columns | {"at": now, "hash": chained}))


def is_account_name(name: str) -> bool:
    """Return whether a fact may contain this account name: a portable user name of POSIX."""
    return _ACCOUNT_NAME.fullmatch(name) is not None


def _check_facts(facts: Mapping[str, FactValue]) -> None:
    for key, value in facts.items():
        if key == ACCOUNT and isinstance(value, str) and _ACCOUNT_NAME.fullmatch(value):
            continue
        if not _CODE.fullmatch(key) or (isinstance(value, str) and not _CODE.fullmatch(value)):
            raise StorageError(
                "An event was given a fact that is no figure, code or digest; events carry nothing else, "
                "so that they identify no patient."
            )


def _canonical(value: object) -> str:
    """Return canonical JSON: sorted keys, no spaces, ASCII; the ``repr`` of a value without a JSON type."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr)


def _hash(session: Session, columns: Mapping[str, Any], previous: str) -> str:
    key: bytes = session.info[AUDIT_KEY]
    message = _canonical({name: columns[name] for name in _COLUMNS} | {"previous": previous})
    return hmac.new(key, message.encode("ascii"), hashlib.sha256).hexdigest()


def _stored(session: Session, *, first: int = 1, limit: int = -1) -> Iterator[Mapping[str, Any]]:
    """Yield events with their stored values: a changed value may have another type, or be no valid text."""
    connection = session.connection().connection.driver_connection
    if not isinstance(connection, sqlite3.Connection):
        raise TypeError("The audit database is SQLite.")
    names = (*_COLUMNS, "hash")
    connection.text_factory = _as_stored
    try:
        # The first read includes negative ids, which no event has.
        statement = f"SELECT {', '.join(names)} FROM event WHERE id >= ? ORDER BY id LIMIT ?"
        for values in connection.execute(statement, (-(2**63) if first == 1 else first, limit)):
            yield dict(zip(names, values, strict=True))
    except sqlite3.Error as error:
        raise translate(error) from error
    finally:
        connection.text_factory = str


def _as_stored(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def verify_chain(session: Session, heads: Iterable[Head] = (), *, first: int = 1) -> ChainReport:
    """Check every event against its hash and the previous hash.

    Parameters
    ----------
    session
        Any transaction; on a copy of the file, to delay no writer.
    heads
        Heads exported by `export_head`.
    first
        Id of the first event to check; the one before it counts as sound.

    Returns
    -------
    ChainReport
        ``first_broken_id``: the first event that was changed or is missing.
    """
    expected = {head.id: head.hash for head in heads}
    count, previous, last = first - 1, FIRST, None
    for before in _stored(session, first=first - 1, limit=1) if first > 1 else ():
        previous = before["hash"]
    for row in _stored(session, first=first):
        number, stored = row["id"], row["hash"]
        if stored != _hash(session, row, previous) or expected.get(number, stored) != stored:
            return ChainReport(ok=False, events=count, first_broken_id=count + 1, head=last)
        count, previous = number, stored
        last = Head(id=number, hash=stored, at=datetime.strptime(row["at"], _TIME).replace(tzinfo=UTC))
    is_cut = count == 0 or max(expected, default=0) > count  # every database has a first event
    return ChainReport(ok=not is_cut, events=count, first_broken_id=count + 1 if is_cut else None, head=last)


def is_own_key(session: Session) -> bool:
    """Return whether the session's key matches the first event of the chain."""
    return all(row["hash"] == _hash(session, row, FIRST) for row in _stored(session, limit=1))


def read_head(session: Session) -> Head | None:
    """Return id, hash and time of the last event; None for an empty log."""
    row = _LAST.first(session)
    return Head(**row) if row else None


def has_event(session: Session, head: Head) -> bool:
    """Return whether the log contains this event with this hash."""
    return session.scalar(select(tables.Event.hash).where(tables.Event.id == head.id)) == head.hash
