"""Receipts: record a received object as a new image with decision and job, or as a resend."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import String, bindparam, or_, select
from sqlalchemy.orm import Session

from cxr.domain import ImageHeader, JobState
from cxr.errors import StorageError
from db.events import EventKind, append_event
from db.identifiers import of_session
from db.images import resends
from db.images.lost_files import restore_file
from db.jobs import INITIAL_STATES
from db.schema.insert import add_row
from db.schema.records import FactValue, LatestImage, Receipt, Received
from db.schema.statements import Query
from db.schema.tables import Decision, Identity, Image, Job

NEED_PIXELS = frozenset({JobState.HELD, JobState.QUEUED})

# A query without a second form repeats the first.
_LATEST = Query(  # columns of LatestImage
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
    .where(or_(*(Image.sop_instance_uid == bindparam(form, type_=String()) for form in ("first_form", "last_form"))))
    .order_by(Image.id.desc())
    .limit(1)
)


def receive(
    session: Session, receipt: Receipt, *, now: datetime, is_lost: Callable[[str], bool] = lambda _: False
) -> Received:
    """Record one received object, whose file is already durable.

    The same dataset under the same SOP Instance UID is a resend: it adds an event, and its result is delivered to
    this peer's destinations (`db.images.resends`). A dataset with the same pixels, copied attributes and view
    decision is a resend too (a PACS may rewrite an unused element). Any other change is a new image with its own
    job.

    The file of a resend replaces a lost file of its image, see `db.images.lost_files`.

    Parameters
    ----------
    session
        A write transaction; it serialises peers that send the same instance at once.
    receipt
        The received object.
    now
        Current time, aware.
    is_lost
        Returns whether the file of a spool name is lost: ``Spool.is_lost``.

    Returns
    -------
    Received
        ``resent``: no image was added, and the caller removes the file of this receipt unless ``is_restored``.

    Raises
    ------
    StorageError
        If an image to be scored has no file, or its state is no initial state.
    """
    _check(receipt)
    latest = find_latest(session, receipt.header.sop_instance_uid)
    is_same_dataset = latest is not None and is_dataset(session, latest, receipt.dataset_digest)
    if latest is None or not (is_same_dataset or _is_unchanged(session, latest, receipt)):
        return _add(session, receipt, latest, now=now)
    received = _resent(session, latest, receipt.peer_ae_title, now=now, is_same_dataset=is_same_dataset)
    is_restored = restore_file(session, latest, receipt.spool_name, now=now, is_lost=is_lost)
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
    """Record the resend of an identical dataset, before its file is made durable.

    Parameters
    ----------
    session
        A write transaction.
    sop_instance_uid, dataset_digest
        Of the received object.
    peer_ae_title
        Calling AE title of the sender.
    now
        Current time, aware.
    is_lost
        As for `receive`.

    Returns
    -------
    Received or None
        None: it differs from the latest object of that UID; keep the file and call `receive`.
    """
    latest = find_latest(session, sop_instance_uid)
    if latest is None or not is_dataset(session, latest, dataset_digest):
        return None
    received = _resent(session, latest, peer_ae_title, now=now, is_same_dataset=True)
    restore_file(session, latest, None, now=now, is_lost=is_lost)
    return received


def find_latest(session: Session, sop_instance_uid: str) -> LatestImage | None:
    """Return the latest image of a SOP Instance UID; None if there is none."""
    forms = of_session(session).forms("uid", sop_instance_uid)
    row = _LATEST.first(session, first_form=forms[0], last_form=forms[-1])
    return None if row is None else LatestImage(**row)


def is_dataset(session: Session, latest: LatestImage, dataset_digest: str) -> bool:
    """Return whether an image has this dataset, in any form of its digest."""
    return of_session(session).is_same("digest", latest.dataset_digest, dataset_digest)


def seal(salt: str, identifiers: Sequence[str | None]) -> str:
    """Return a digest that binds identifiers to an event, under a salt that can be deleted.

    Parameters
    ----------
    salt
        Random hex digits of this image; without them the seal identifies no patient.
    identifiers
        Values of `sealed_values`.

    Returns
    -------
    str
        HMAC-SHA256, hex.
    """
    message = json.dumps(list(identifiers), separators=(",", ":"))
    return hmac.new(bytes.fromhex(salt), message.encode("ascii"), hashlib.sha256).hexdigest()


def sealed_values(source: ImageHeader | Image, dataset_digest: str) -> tuple[str | None, ...]:
    """Return the values covered by the seal of an image: its identifiers and its dataset's digest."""
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


def _is_unchanged(session: Session, latest: LatestImage, receipt: Receipt) -> bool:
    """Return whether everything that a result depends on is the same."""
    decision, identifiers = receipt.decision, of_session(session)
    return (
        identifiers.is_same("digest", latest.pixel_digest, receipt.pixel_digest)
        and identifiers.is_same("digest", latest.identity_digest, receipt.header.identity_digest)
        and (latest.view, latest.is_chest, latest.reason) == (decision.view, decision.is_chest, decision.reason)
    )


def _resent(
    session: Session, latest: LatestImage, peer_ae_title: str, *, now: datetime, is_same_dataset: bool
) -> Received:
    if latest.state is not JobState.NOT_SCORED:  # no result to deliver, now or later
        resends.record_resend(session, latest.image_id, peer_ae_title)
    append_event(
        session,
        EventKind.RESENT,
        now=now,
        image_id=latest.image_id,
        job_id=latest.job_id,
        facts={"same_dataset": is_same_dataset},
    )
    return Received(outcome="resent", image_id=latest.image_id, job_id=latest.job_id)


def _add(session: Session, receipt: Receipt, latest: LatestImage | None, *, now: datetime) -> Received:
    identifiers = of_session(session)
    same_pixels = latest is not None and identifiers.is_same("digest", latest.pixel_digest, receipt.pixel_digest)
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
    kind = EventKind.RECEIVED if latest is None else EventKind.CHANGED_RESEND
    if latest is not None:
        facts["previous_image"] = latest.image_id
        facts["same_pixels"] = same_pixels
    sealed = (("image", image_id), ("pixels", image_id), ("job", job_id))
    append_event(session, kind, now=now, image_id=image_id, job_id=job_id, facts=facts, seals=sealed)
    return Received(outcome="new" if latest is None else "changed_resend", image_id=image_id, job_id=job_id)


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
