"""What peers asked us to be responsible for, and what we may say.

Committed is what is on disk with the bytes that came, whose row is committed, and which the service
itself then keeps until a day that is written down first. Everything else, whatever became of it, is
answered with 0x0112, No such object instance.

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
    """One instance that a peer asks about."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRequest:
    """One request that is to be answered now."""

    id: int
    transaction_uid: str
    peer_ae_title: str
    attempts: int  # that were begun before this one
    requested_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is reported of one request."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    refused: tuple[tuple[Reference, int], ...]  # with Failure Reason

    @property
    def event_type(self) -> int:
        """Event Type ID: 1, all are committed; 2, some are not."""
        return 2 if self.refused else 1

    def dataset(self) -> Dataset:
        """Write it as the Event Information of an N-EVENT-REPORT."""
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
    """Write down a request, before the peer is told that it was taken.

    Parameters
    ----------
    session
        A write transaction.
    peer_ae_title
        Who asks; the report goes there.
    transaction_uid
        The peer's; one that it used before is answered anew.
    references
        What about.
    due_at
        When to report on an association of our own, unless that was done by then.
    now
        The time.

    Returns
    -------
    int
        Our number of it.
    """
    known = session.scalars(
        select(Commitment).where(
            Commitment.peer_ae_title == peer_ae_title, Commitment.transaction_uid == transaction_uid
        )
    ).first()
    if known is None:
        known = Commitment(peer_ae_title=peer_ae_title, transaction_uid=transaction_uid)
        session.add(known)
    known.state, known.instances, known.committed, known.attempts = PENDING, len(references), None, 0
    known.error_code, known.due_at, known.requested_at, known.updated_at = None, due_at, now, now
    session.flush()
    _drop_items(session, known.id)
    rows = [
        {"commitment_id": known.id, "sop_class_uid": each.sop_class_uid, "sop_instance_uid": each.sop_instance_uid}
        for each in references
    ]
    session.execute(insert(CommitmentItem), rows)
    _append(session, EventKind.COMMITMENT_REQUESTED, known.id, now, instances=len(references))
    return known.id


def claim(session: Session, *, limit: int, now: datetime, lease_s: float) -> list[ClaimedRequest]:
    """Take the requests that are due; for so long nobody else gets them."""
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
    """Whether a request waits for a report now: cheaper to ask than to claim."""
    due = select(Commitment.id).where(Commitment.state == PENDING, Commitment.due_at <= now).limit(1)
    return session.scalar(due) is not None


def find(session: Session, number: int) -> ClaimedRequest | None:
    """Return a request that has no report yet; None: it has one, or was given up."""
    row = session.get(Commitment, number)
    return None if row is None or row.state != PENDING else _claimed(row)


def answer(database: Database, spool: Spool, claimed: ClaimedRequest, *, keep_until: datetime) -> Answer:
    """Say what is committed of a request; what is, is kept from here on.

    Parameters
    ----------
    database, spool
        Rows and files. The files are read whole: their digests are compared with what came.
    claimed
        The request.
    keep_until
        Until when the service keeps what it commits to.
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


def mark_reported(session: Session, number: int, given: Answer, *, now: datetime) -> None:
    """Write down that the peer took the report; what it asked about is not remembered any longer."""
    _drop_items(session, number)
    _update(session, number, now, state=REPORTED, committed=len(given.committed), due_at=None, error_code=None)
    facts = {"committed": len(given.committed), "refused": len(given.refused)}
    _append(session, EventKind.COMMITMENT_REPORTED, number, now, **facts)


def postpone(session: Session, number: int, *, code: str | None, due_at: datetime, now: datetime) -> None:
    """Write down that the peer did not get the report, and when it is tried again.

    Parameters
    ----------
    session
        A write transaction.
    number
        Which request.
    code
        Why: the error's code; None: it was not tried, the peer's association ended before.
    due_at
        When to try again.
    now
        The time.
    """
    if code is None:
        _update(session, number, now, due_at=due_at)
    else:
        _update(session, number, now, error_code=code, due_at=due_at, attempts=Commitment.attempts + 1)
        _append(session, EventKind.COMMITMENT_POSTPONED, number, now, code=code)


def give_up(session: Session, number: int, *, code: str, now: datetime) -> None:
    """Write down that the peer never gets a report; it may ask again."""
    _drop_items(session, number)
    _update(session, number, now, state=DEAD, error_code=code, due_at=None, attempts=Commitment.attempts + 1)
    _append(session, EventKind.COMMITMENT_DEAD, number, now, code=code)


def _commit(database: Database, spool: Spool, reference: Reference, keep_until: datetime) -> int | None:
    """Commit to one instance; else the Failure Reason."""
    with database.read() as session:
        known = find_latest(session, reference.sop_instance_uid)
        identifiers = of_session(session)
        sop_class_uid = None if known is None else session.get_one(Image, known.image_id).sop_class_uid
    if known is None or known.spool_name is None:
        return NO_SUCH_INSTANCE
    if sop_class_uid != reference.sop_class_uid:
        return CLASS_CONFLICT
    if not identifiers.is_same("digest", known.dataset_digest, _digest(spool.path(known.spool_name))):
        return NO_SUCH_INSTANCE
    with database.begin() as session:  # retention may have been here since
        if session.scalar(select(Image.spool_name).where(Image.id == known.image_id)) != known.spool_name:
            return NO_SUCH_INSTANCE
        before = session.get(Custody, known.image_id)
        if before is None:
            session.add(Custody(image_id=known.image_id, until=keep_until))
        else:
            before.until = max(before.until, keep_until)
    return None


def _digest(path: Path) -> str:
    """Digest the data set of a file in the spool; empty: it is gone, or not what we write."""
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
