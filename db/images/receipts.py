"""Receipts: a received object becomes an image, its decision and its job, or is known as a resend."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from cxr.domain import ImageHeader, JobState
from cxr.errors import StorageError
from db.events import EventKind, append_event
from db.identifiers import of_session
from db.images import resends
from db.images.lost_files import restore_file
from db.jobs import INITIAL_STATES
from db.schema.insert import add_row
from db.schema.records import FactValue, KnownImage, Receipt, Received
from db.schema.tables import Decision, Identity, Image, Job

NEED_PIXELS = frozenset({JobState.HELD, JobState.QUEUED})

# Once, not for each object: putting it together takes longer than asking it. Its columns are KnownImage's.
_LATEST = (
    select(
        Image.id.label("image_id"),
        Job.id.label("job_id"),
        Image.dataset_digest,
        Image.pixel_digest,
        Image.identity_digest,
        Decision.view,
        Decision.is_chest,
        Decision.reason,
        Image.spool_name,
        Job.state,
        Job.error_code,
    )
    .join(Decision, Decision.image_id == Image.id)
    .join(Job, Job.image_id == Image.id)
    .where(Image.sop_instance_uid.in_(bindparam("forms", expanding=True)))
    .order_by(Image.id.desc())
    .limit(1)
)


def receive(
    session: Session, receipt: Receipt, *, now: datetime, is_lost: Callable[[str], bool] = lambda _: False
) -> Received:
    """Write down one received object, whose file is durable already.

    The same dataset under the same SOP Instance UID is a resend: one event, and its result goes where this
    peer's results go (`db.images.resends`). So is another dataset
    whose pixels, copied attributes and view decision are the same (a PACS that rewrote an element
    that we don't use). Any other change is a new image with a job of its own.

    A resend whose image lost its file gives it this one, see `db.images.lost_files`.

    Parameters
    ----------
    session
        A write transaction; it decides between peers that send the same instance at once.
    receipt
        What came.
    now
        The time.
    is_lost
        Whether the file of a spool name is gone: ``Spool.is_lost``.

    Returns
    -------
    Received
        ``resent``: nothing was added, and the caller removes the file it kept for this receipt, unless
        it was restored.

    Raises
    ------
    StorageError
        If an image that is to be scored comes without its file, or its state is not one to start in.
    """
    _check(receipt)
    known = find_latest(session, receipt.header.sop_instance_uid)
    is_same_dataset = known is not None and is_dataset(session, known, receipt.dataset_digest)
    if known is None or not (is_same_dataset or _is_unchanged(session, known, receipt)):
        return _add(session, receipt, known, now=now)
    received = _resent(session, known, receipt.peer_ae_title, now=now, is_same_dataset=is_same_dataset)
    is_restored = restore_file(session, known, receipt.spool_name, now=now, is_lost=is_lost)
    return replace(received, is_restored=is_restored)


def receive_again(
    session: Session,
    sop_instance_uid: str,
    dataset_digest: str,
    *,
    peer_ae_title: str,
    now: datetime,
    is_lost: Callable[[str], bool] = lambda _: False,
) -> Received | None:
    """Write down the resend of a dataset that is known byte for byte, before its file is made durable.

    Parameters
    ----------
    session
        A write transaction.
    sop_instance_uid, dataset_digest
        Of what came.
    peer_ae_title
        Calling AE title of who sent it.
    now
        The time.
    is_lost
        As for `receive`.

    Returns
    -------
    Received or None
        None: this is not what came last under that UID; keep the file and call `receive`.
    """
    known = find_latest(session, sop_instance_uid)
    if known is None or not is_dataset(session, known, dataset_digest):
        return None
    received = _resent(session, known, peer_ae_title, now=now, is_same_dataset=True)
    restore_file(session, known, None, now=now, is_lost=is_lost)
    return received


def find_latest(session: Session, sop_instance_uid: str) -> KnownImage | None:
    """Return what the latest object under a SOP Instance UID was; None if there was none."""
    row = session.execute(_LATEST, {"forms": of_session(session).forms("uid", sop_instance_uid)}).first()
    return None if row is None else KnownImage(**row._mapping)


def is_dataset(session: Session, known: KnownImage, dataset_digest: str) -> bool:
    """Whether an image was received with this very data set, in whatever form its digest is stored."""
    return of_session(session).is_same("digest", known.dataset_digest, dataset_digest)


def seal(salt: str, identifiers: Sequence[str | None]) -> str:
    """Bind identifiers to an event without showing them: a digest under a salt that can be deleted.

    Parameters
    ----------
    salt
        Random, of this image alone; without it the seal says nothing about anybody.
    identifiers
        As ``sealed_values`` gives them.

    Returns
    -------
    str
        HMAC-SHA256, hex.
    """
    message = json.dumps(list(identifiers), separators=(",", ":"))
    return hmac.new(bytes.fromhex(salt), message.encode("ascii"), hashlib.sha256).hexdigest()


def sealed_values(source: ImageHeader | Image, dataset_digest: str) -> tuple[str | None, ...]:
    """Return what the seal of an image covers: whose it is, and which bytes came."""
    return (
        source.sop_class_uid,
        source.sop_instance_uid,
        source.study_instance_uid,
        source.series_instance_uid,
        source.accession_number,
        source.patient_id,
        dataset_digest,
    )


def _check(receipt: Receipt) -> None:
    if receipt.initial_state not in INITIAL_STATES:
        raise StorageError(
            f"An image can't start as {receipt.initial_state}; it starts as one of {', '.join(sorted(INITIAL_STATES))}."
        )
    if receipt.initial_state in NEED_PIXELS and receipt.spool_name is None:
        raise StorageError(f"An image that starts as {receipt.initial_state} needs its file in the spool.")


def _is_unchanged(session: Session, known: KnownImage, receipt: Receipt) -> bool:
    """Whether everything that a result depends on is the same."""
    decision, identifiers = receipt.decision, of_session(session)
    return (
        identifiers.is_same("digest", known.pixel_digest, receipt.pixel_digest)
        and identifiers.is_same("digest", known.identity_digest, receipt.header.identity_digest)
        and (known.view, known.is_chest, known.reason) == (decision.view, decision.is_chest, decision.reason)
    )


def _resent(
    session: Session, known: KnownImage, peer_ae_title: str, *, now: datetime, is_same_dataset: bool
) -> Received:
    if known.state is not JobState.NOT_SCORED:  # there is nothing to bring, now or later
        resends.record_resend(session, known.image_id, peer_ae_title)
    append_event(
        session,
        EventKind.RESENT,
        now=now,
        image_id=known.image_id,
        job_id=known.job_id,
        facts={"same_dataset": is_same_dataset},
    )
    return Received(outcome="resent", image_id=known.image_id, job_id=known.job_id)


def _add(session: Session, receipt: Receipt, known: KnownImage | None, *, now: datetime) -> Received:
    identifiers = of_session(session)
    same_pixels = known is not None and identifiers.is_same("digest", known.pixel_digest, receipt.pixel_digest)
    receipt = identifiers.stored(receipt)
    salt = secrets.token_hex(16)
    image_id = _insert_image(session, receipt, salt)
    _insert_identity(session, image_id, identifiers.kind, receipt.header.issuer_of_patient_id)
    _insert_decision(session, receipt, image_id, now=now)
    job_id = _insert_job(session, receipt, image_id, now=now)
    decision = receipt.decision
    facts: dict[str, FactValue] = {
        "state": str(receipt.initial_state),
        "reason": receipt.reason,
        "view": str(decision.view),
        "is_chest": decision.is_chest,
        "seal": seal(salt, sealed_values(receipt.header, receipt.dataset_digest)),
    }
    kind = EventKind.RECEIVED if known is None else EventKind.CHANGED_RESEND
    if known is not None:
        facts["previous_image"] = known.image_id
        facts["same_pixels"] = same_pixels
    sealed = (("image", image_id), ("pixels", image_id), ("job", job_id))
    append_event(session, kind, now=now, image_id=image_id, job_id=job_id, facts=facts, seals=sealed)
    return Received(outcome="new" if known is None else "changed_resend", image_id=image_id, job_id=job_id)


def _insert_image(session: Session, receipt: Receipt, salt: str) -> int:
    header = receipt.header
    return add_row(
        session,
        Image,
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
        study_instance_uid=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
        accession_number=header.accession_number,
        patient_id=header.patient_id,
        study_date=header.study_date,
        modality=header.modality,
        body_part_examined=header.body_part_examined,
        rows=header.rows,
        columns=header.columns,
        peer_ae_title=receipt.peer_ae_title,
        transfer_syntax_uid=receipt.transfer_syntax_uid,
        size_bytes=receipt.size_bytes,
        dataset_digest=receipt.dataset_digest,
        pixel_digest=receipt.pixel_digest,
        identity_digest=header.identity_digest,
        spool_name=receipt.spool_name,
        seal_salt=salt,
        received_at=receipt.received_at,
    )


def _insert_identity(session: Session, image_id: int, kind: str, issuer_of_patient_id: str | None) -> None:
    if kind != "full" or issuer_of_patient_id is not None:
        add_row(session, Identity, image_id=image_id, kind=kind, issuer_of_patient_id=issuer_of_patient_id)


def _insert_decision(session: Session, receipt: Receipt, image_id: int, *, now: datetime) -> None:
    decision = receipt.decision
    add_row(
        session,
        Decision,
        image_id=image_id,
        view=decision.view,
        is_chest=decision.is_chest,
        reason=decision.reason,
        evidence=dict(decision.evidence),
        decided_at=now,
    )


def _insert_job(session: Session, receipt: Receipt, image_id: int, *, now: datetime) -> int:
    return add_row(
        session,
        Job,
        image_id=image_id,
        state=receipt.initial_state,
        reason=receipt.reason,
        attempts=0,
        created_at=now,
        updated_at=now,
    )
