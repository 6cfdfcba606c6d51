"""Storage Commitment requests of peers, and their reports.

An instance is committed if its file has the received bytes and its row is committed; the service then keeps it
until a date that is stored first. For any other instance the Failure Reason is 0x0112, No such object instance,
or 0x0119, Class / Instance conflict.

References
----------
DICOM PS3.4 Annex J (Push Model), PS3.3 Section C.14.1.1 (Failure Reason)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from blake3 import blake3
from pydicom.dataset import Dataset
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from cxr.dicom.commitment_report import commitment_report
from db.disk import Spool
from db.engine import Database
from db.events import EventKind, append_event
from db.identifiers import of_session
from db.images.receipts import find_latest
from db.schema.tables import Commitment, CommitmentItem, Custody, Image

PENDING, REPORTED, DEAD = "pending", "reported", "dead"
NO_SUCH_INSTANCE = 0x0112
CLASS_CONFLICT = 0x0119

_META_AT = 132  # preamble and DICM
_LENGTH_BYTES = 12  # (0002,0000) UL: tag, VR, length, value
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One instance of a request."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRequest:
    """One claimed request, to be reported now."""

    id: int
    transaction_uid: str
    peer_ae_title: str
    attempts: int  # earlier ones
    requested_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Report of one request."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    refused: tuple[tuple[Reference, int], ...]  # with Failure Reason

    @property
    def event_type(self) -> int:
        """Event Type ID: 1, all instances are committed; 2, failures exist."""
        return 2 if self.refused else 1

    def dataset(self) -> Dataset:
        """Return the Event Information of the N-EVENT-REPORT."""
        return commitment_report(
            self.transaction_uid,
            ((each.sop_class_uid, each.sop_instance_uid) for each in self.committed),
            ((each.sop_class_uid, each.sop_instance_uid, reason) for each, reason in self.refused),
        )


def request(
    session: Session,
    *,
    peer_ae_title: str,
    transaction_uid: str,
    references: Sequence[Reference],
    due_at: datetime,
    now: datetime,
) -> int:
    """Record a request, before the N-ACTION response is sent.

    Parameters
    ----------
    session
        A write transaction.
    peer_ae_title
        Requesting peer, which receives the report.
    transaction_uid
        Transaction UID of the peer; a repeated one replaces the earlier request.
    references
        Requested instances.
    due_at
        Time to report on a new association, unless reported on the peer's before.
    now
        Current time, aware.

    Returns
    -------
    int
        Id of the request.
    """
    row = session.scalars(
        select(Commitment).where(
            Commitment.peer_ae_title == peer_ae_title, Commitment.transaction_uid == transaction_uid
        )
    ).first()
    if row is None:
        row = Commitment(peer_ae_title=peer_ae_title, transaction_uid=transaction_uid)
        session.add(row)
    row.state, row.instances, row.committed, row.attempts = PENDING, len(references), None, 0
    row.error_code, row.due_at, row.requested_at, row.updated_at = None, due_at, now, now
    session.flush()
    _drop_items(session, row.id)
    rows = [
        {"commitment_id": row.id, "sop_class_uid": each.sop_class_uid, "sop_instance_uid": each.sop_instance_uid}
        for each in references
    ]
    session.execute(insert(CommitmentItem), rows)
    _append(session, EventKind.COMMITMENT_REQUESTED, row.id, now, instances=len(references))
    return row.id


def claim(session: Session, *, limit: int, now: datetime, lease_s: float) -> list[ClaimedRequest]:
    """Claim due requests, with a lease of ``lease_s`` seconds."""
    due = (
        select(Commitment)
        .where(Commitment.state == PENDING, Commitment.due_at <= now)
        .order_by(Commitment.due_at, Commitment.id)
        .limit(limit)
    )
    claimed = []
    for row in session.scalars(due):
        row.due_at = now + timedelta(seconds=lease_s)
        claimed.append(_claimed(row))
    return claimed


def is_any_due(session: Session, now: datetime) -> bool:
    """Return whether a report is due; cheaper than `claim`."""
    due = select(Commitment.id).where(Commitment.state == PENDING, Commitment.due_at <= now).limit(1)
    return session.scalar(due) is not None


def find(session: Session, number: int) -> ClaimedRequest | None:
    """Return a pending request; None: it was reported or given up."""
    row = session.get(Commitment, number)
    return None if row is None or row.state != PENDING else _claimed(row)


def answer(database: Database, spool: Spool, claimed: ClaimedRequest, *, keep_until: datetime) -> Answer:
    """Return the report of a request, and keep the committed instances from now on.

    Parameters
    ----------
    database, spool
        Rows and files. Whole files are read: their digests are compared with those of the received datasets.
    claimed
        The request.
    keep_until
        Time until which the service keeps committed instances, aware.
    """
    with database.read() as session:
        items = session.scalars(select(CommitmentItem).where(CommitmentItem.commitment_id == claimed.id)).all()
        references = [Reference(sop_class_uid=it.sop_class_uid, sop_instance_uid=it.sop_instance_uid) for it in items]
    committed: list[Reference] = []
    refused: list[tuple[Reference, int]] = []
    for reference in references:
        reason = _commit(database, spool, reference, keep_until)
        if reason is None:
            committed.append(reference)
        else:
            refused.append((reference, reason))
    return Answer(transaction_uid=claimed.transaction_uid, committed=tuple(committed), refused=tuple(refused))


def mark_reported(session: Session, number: int, report: Answer, *, now: datetime) -> None:
    """Record that the peer accepted the report, and delete the references."""
    _drop_items(session, number)
    _update(session, number, now, state=REPORTED, committed=len(report.committed), due_at=None, error_code=None)
    facts = {"committed": len(report.committed), "refused": len(report.refused)}
    _append(session, EventKind.COMMITMENT_REPORTED, number, now, **facts)


def postpone(session: Session, number: int, *, code: str | None, due_at: datetime, now: datetime) -> None:
    """Record that the report was not delivered, and the time of the next attempt.

    Parameters
    ----------
    session
        A write transaction.
    number
        Id of the request.
    code
        Code of the error; None: no attempt, the peer's association ended before.
    due_at
        Time of the next attempt.
    now
        Current time, aware.
    """
    if code is None:
        _update(session, number, now, due_at=due_at)
    else:
        _update(session, number, now, error_code=code, due_at=due_at, attempts=Commitment.attempts + 1)
        _append(session, EventKind.COMMITMENT_POSTPONED, number, now, code=code)


def give_up(session: Session, number: int, *, code: str, now: datetime) -> None:
    """Record that the report is given up; the peer may request again."""
    _drop_items(session, number)
    _update(session, number, now, state=DEAD, error_code=code, due_at=None, attempts=Commitment.attempts + 1)
    _append(session, EventKind.COMMITMENT_DEAD, number, now, code=code)


def _commit(database: Database, spool: Spool, reference: Reference, keep_until: datetime) -> int | None:
    """Commit to one instance and return None, or return the Failure Reason."""
    with database.read() as session:
        latest = find_latest(session, reference.sop_instance_uid)
        identifiers = of_session(session)
        sop_class_uid = None if latest is None else session.get_one(Image, latest.image_id).sop_class_uid
    if latest is None or latest.spool_name is None:
        return NO_SUCH_INSTANCE
    if sop_class_uid != reference.sop_class_uid:
        return CLASS_CONFLICT
    if not identifiers.is_same("digest", latest.dataset_digest, _digest(spool.path(latest.spool_name))):
        return NO_SUCH_INSTANCE
    with database.begin() as session:  # retention may have removed the file since
        if session.scalar(select(Image.spool_name).where(Image.id == latest.image_id)) != latest.spool_name:
            return NO_SUCH_INSTANCE
        before = session.get(Custody, latest.image_id)
        if before is None:
            session.add(Custody(image_id=latest.image_id, until=keep_until))
        else:
            before.until = max(before.until, keep_until)
    return None


def _digest(path: Path) -> str:
    """Return the BLAKE3 of the dataset of a file in the spool; empty if the file can't be read."""
    digest = blake3()
    try:
        with path.open("rb") as file:
            head = file.read(_META_AT + _LENGTH_BYTES)
            file.seek(_META_AT + _LENGTH_BYTES + int.from_bytes(head[_META_AT + 8 :], "little"))
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()


def _claimed(row: Commitment) -> ClaimedRequest:
    return ClaimedRequest(
        id=row.id,
        transaction_uid=row.transaction_uid,
        peer_ae_title=row.peer_ae_title,
        attempts=row.attempts,
        requested_at=row.requested_at,
    )


def _drop_items(session: Session, number: int) -> None:
    session.execute(
        delete(CommitmentItem).where(CommitmentItem.commitment_id == number),
        execution_options={"synchronize_session": False},
    )


def _update(session: Session, number: int, now: datetime, **columns: object) -> None:
    session.execute(
        update(Commitment).where(Commitment.id == number).values(updated_at=now, **columns),
        execution_options={"synchronize_session": False},
    )


def _append(session: Session, kind: EventKind, number: int, now: datetime, **facts: int | str) -> None:
    append_event(session, kind, now=now, facts={"commitment": number, **facts}, seals=(("commitment", number),))
