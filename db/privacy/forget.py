"""Forget a patient or a study: find and remove files, identifiers and digests.

Ids, times, states, decisions, scores and the events stay; they identify no patient. The event chain stays valid, and
each forgotten image is an event. Other copies of the database: `db.privacy.erase_copies`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import ColumnElement, Select, and_, delete, or_, select, update
from sqlalchemy.orm import Session

from cxr.dicom import READING_FAULTS, open_dataset
from cxr.dicom.elements import text, uid
from cxr.domain import DeliveryState, JobState
from cxr.errors import CxrError
from db.deliveries import states as delivery_states
from db.disk import Spool
from db.engine import Database
from db.events import EventKind, append_event
from db.identifiers import FORGOTTEN, of_session
from db.jobs import states as job_states
from db.schema.tables import CommitmentItem, Custody, Delivery, Identity, Image, Job, JobReport, Report, Resend

_UNFINISHED = (JobState.HELD, JobState.QUEUED, JobState.SCORING, JobState.FAILED)
_ENDS = {
    DeliveryState.PENDING: (DeliveryState.DEAD, EventKind.DELIVERY_DEAD, FORGOTTEN),
    DeliveryState.SENT: (DeliveryState.SENT, EventKind.DELIVERY_POSTPONED, None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetRequest:
    """The patient or study to forget."""

    patient_id: str | None = None
    issuer_of_patient_id: str | None = None  # None: any issuer
    study_instance_uid: str | None = None

    def is_in(self, path: Path) -> bool:
        """Return whether a DICOM file belongs to this patient or study; False if it can't be read."""
        try:
            header = open_dataset(path)
            patient_id, issuer = text(header, "PatientID"), text(header, "IssuerOfPatientID")
            study_instance_uid = uid(header, "StudyInstanceUID")
        except (CxrError, OSError, *READING_FAULTS):
            return False
        if self.study_instance_uid is not None:
            return study_instance_uid == self.study_instance_uid
        return patient_id == self.patient_id and self.issuer_of_patient_id in (None, issuer)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredObject:
    """One report that a destination stores or may store."""

    destination: str
    sop_class_uid: str
    sop_instance_uid: str
    state: DeliveryState  # pending: it may have arrived
    sent_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Everything stored of a patient or study."""

    images: tuple[int, ...]
    reports: tuple[int, ...]
    issuers: int  # number of issuers of this patient ID; no issuer counts as one
    peers: tuple[str, ...]  # AE titles that sent the images and may still store them
    delivered_objects: tuple[DeliveredObject, ...]
    quarantined: tuple[Path, ...]


def find(database: Database, spool: Spool | None, request: ForgetRequest) -> Holdings:
    """Find everything stored of a patient or study, in any form of identifiers.

    Images stored without identifiers are found by their files, if these still exist.

    Parameters
    ----------
    database
        The live database, or a copy.
    spool
        Its files; None: a copy of the database.
    request
        Patient or study.
    """
    with database.read() as session:
        images = _named(session, request)
        if spool is not None:
            images |= {number for number, path in _nameless(session, spool) if request.is_in(path)}
        numbers = tuple(sorted(images))
        reports = tuple(session.scalars(_reports_of(numbers)))
        rows = session.execute(
            select(Image.peer_ae_title, Identity.issuer_of_patient_id)
            .outerjoin(Identity, Identity.image_id == Image.id)
            .where(Image.id.in_(numbers))
        ).all()
        again = set(session.scalars(select(Resend.peer_ae_title).where(Resend.image_id.in_(numbers))))
        delivered_objects = tuple(_delivered_objects(session, reports))
    quarantined = () if spool is None else tuple(path for path in spool.quarantined() if request.is_in(path))
    return Holdings(
        images=numbers,
        reports=reports,
        issuers=len({row.issuer_of_patient_id for row in rows}),
        peers=tuple(sorted({row.peer_ae_title for row in rows} | again)),
        delivered_objects=delivered_objects,
        quarantined=quarantined,
    )


def forget(session: Session, spool: Spool | None, image_id: int, *, now: datetime) -> None:
    """Remove the files of one image, and the values of its rows that identify the patient or the image.

    A file is removed before its row is committed: after a kill in between, the row is found again.

    Parameters
    ----------
    session
        A write transaction.
    spool
        Its files; None: a copy of the database.
    image_id
        The image.
    now
        Current time, aware.
    """
    image = session.get_one(Image, image_id)
    job_id = session.scalars(select(Job.id).where(Job.image_id == image_id)).one()
    _end_job(session, job_id, now=now)
    reports = session.scalars(_own_reports(job_id)).all()
    for report in reports:
        _end_deliveries(session, report.id, now=now)
        _remove(spool, report.spool_name)
        report.spool_name, report.removed_at = None, now
        report.sop_instance_uid = f"{FORGOTTEN}.{report.id}"
        report.series_instance_uid = report.content_digest = FORGOTTEN
    _remove(spool, image.spool_name)
    _delete_commitment_items(session, image.sop_instance_uid)
    session.execute(
        delete(Custody).where(Custody.image_id == image_id), execution_options={"synchronize_session": False}
    )
    _blank(image, now)
    session.merge(Identity(image_id=image_id, kind=FORGOTTEN, issuer_of_patient_id=None))
    session.flush()
    own = [report.id for report in reports]
    its_deliveries = or_(Delivery.job_id == job_id, Delivery.report_id.in_(own))
    delivered = session.scalars(select(Delivery.id).where(its_deliveries)).all()
    append_event(
        session,
        EventKind.PATIENT_FORGOTTEN,
        now=now,
        image_id=image_id,
        facts={"reports": len(reports)},
        # Every row sealed with the deleted salt.
        seals=(
            ("image", image_id),
            ("pixels", image_id),
            *(("report", number) for number in own),
            *(("delivery", number) for number in delivered),
        ),
    )


def forgotten(session: Session) -> dict[int, datetime]:
    """Return the time of reception of every forgotten image, by id."""
    rows = session.execute(
        select(Image.id, Image.received_at)
        .join(Identity, Identity.image_id == Image.id)
        .where(Identity.kind == FORGOTTEN)
    )
    return {row.id: row.received_at for row in rows}


def _named(session: Session, request: ForgetRequest) -> set[int]:
    """Return the images with matching identifiers."""
    identifiers = of_session(session)
    if request.study_instance_uid is not None:
        study = Image.study_instance_uid.in_(identifiers.forms("uid", request.study_instance_uid))
        return set(session.scalars(select(Image.id).where(study)))
    patient: ColumnElement[bool] = Image.patient_id.in_(identifiers.forms("patient_id", request.patient_id or ""))
    if request.issuer_of_patient_id is not None:
        forms = identifiers.forms("issuer_of_patient_id", request.issuer_of_patient_id)
        patient = and_(patient, Identity.issuer_of_patient_id.in_(forms))
    return set(session.scalars(select(Image.id).outerjoin(Identity, Identity.image_id == Image.id).where(patient)))


def _nameless(session: Session, spool: Spool) -> Iterator[tuple[int, Path]]:
    """Yield the files of images stored without identifiers, and of their reports."""
    nameless = and_(Identity.image_id == Image.id, Identity.kind == "none")
    own = select(Image.id, Image.spool_name).join(Identity, nameless)
    of_reports = (
        select(Image.id, Report.spool_name)
        .join(Identity, nameless)
        .join(Job, Job.image_id == Image.id)
        .join(JobReport, JobReport.job_id == Job.id)
        .join(Report, Report.id == JobReport.report_id)
    )
    for row in (*session.execute(own), *session.execute(of_reports)):
        if row.spool_name is not None:
            yield row.id, spool.path(row.spool_name)


def _reports_of(images: Sequence[int]) -> Select[int]:
    of_images = select(Job.id).where(Job.image_id.in_(images))
    return select(JobReport.report_id).where(JobReport.job_id.in_(of_images)).distinct().order_by(JobReport.report_id)


def _delivered_objects(session: Session, reports: Sequence[int]) -> Iterator[DeliveredObject]:
    """Yield reports that a destination accepted or may have received."""
    may_be_there = or_(Delivery.sent_at.is_not(None), Delivery.attempts > 0, Delivery.sender_id.is_not(None))
    rows = session.execute(
        select(Delivery, Report)
        .join(Report, Report.id == Delivery.report_id)
        .where(Delivery.report_id.in_(reports), may_be_there)
        .order_by(Delivery.id)
    )
    for delivery, report in rows:
        yield DeliveredObject(
            destination=delivery.destination,
            sop_class_uid=delivery.delivered_sop_class_uid or report.sop_class_uid,
            sop_instance_uid=delivery.delivered_sop_instance_uid or report.sop_instance_uid,
            state=delivery.state,
            sent_at=delivery.sent_at,
        )


def _own_reports(job_id: int) -> Select[Report]:
    """Select the reports of this job; a report shared with another image has the same instance and content."""
    return select(Report).join(JobReport, JobReport.report_id == Report.id).where(JobReport.job_id == job_id)


def _end_job(session: Session, job_id: int, *, now: datetime) -> None:
    """End an unfinished job; a worker that is scoring it loses the lease and removes its reports."""
    job = job_states.get_job(session, job_id)
    if job.state in _UNFINISHED:
        facts = {"reason": FORGOTTEN}
        job_states.move(
            session, job, JobState.NOT_SCORED, EventKind.JOB_DISCARDED, now=now, facts=facts, reason=FORGOTTEN,
            not_before=None,
        )  # fmt: skip


def _end_deliveries(session: Session, report_id: int, *, now: datetime) -> None:
    for number in session.scalars(select(Delivery.id).where(Delivery.report_id == report_id)).all():
        delivery = delivery_states.get_delivery(session, number)
        if delivery.state in _ENDS:  # a sent delivery stays sent, without verification
            to, kind, code = _ENDS[delivery.state]
            columns = {"error_code": code} if code else {}
            facts = {"code": code} if code else {}
            delivery_states.move(session, delivery, to, kind, now=now, facts=facts, due_at=None, **columns)
    session.execute(
        update(Delivery).where(Delivery.report_id == report_id).values(delivered_sop_instance_uid=None),
        execution_options={"synchronize_session": False},
    )


def _delete_commitment_items(session: Session, sop_instance_uid: str) -> None:
    """Delete the image from pending Storage Commitment requests, which contain its UID as received."""
    identifiers = of_session(session)
    for item in session.scalars(select(CommitmentItem)).all():
        if identifiers.is_same("uid", sop_instance_uid, item.sop_instance_uid):
            session.delete(item)


def _remove(spool: Spool | None, spool_name: str | None) -> None:
    if spool is not None and spool_name is not None:
        spool.remove(spool_name)


def _blank(image: Image, now: datetime) -> None:
    image.sop_instance_uid = f"{FORGOTTEN}.{image.id}"
    image.study_instance_uid = image.series_instance_uid = None
    image.accession_number = image.patient_id = image.study_date = None
    image.body_part_examined = image.modality = None
    image.dataset_digest = image.identity_digest = FORGOTTEN
    image.pixel_digest = image.seal_salt = None
    if image.spool_name is not None:
        image.spool_name, image.pixels_removed_at = None, now
