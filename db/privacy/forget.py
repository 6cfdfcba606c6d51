"""What is kept of one patient or one study, and how it goes: files, identifiers, digests.

Numbers, times, states, decisions and scores stay, and so do the events, which identify nobody: the
chain of events verifies as before, and each image that was forgotten is an event of its own. Other
copies of the database are `db.privacy.erase_copies`'s.
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
    """Who is to be forgotten: a patient, or one study."""

    patient_id: str | None = None
    issuer_of_patient_id: str | None = None  # None: whoever issued the ID
    study_instance_uid: str | None = None

    def is_in(self, path: Path) -> bool:
        """Whether a DICOM file is of this patient or study; one that can't be read is not."""
        try:
            header = open_dataset(path)
            found = text(header, "PatientID"), text(header, "IssuerOfPatientID"), uid(header, "StudyInstanceUID")
        except (CxrError, OSError, *READING_FAULTS):
            return False
        if self.study_instance_uid is not None:
            return found[2] == self.study_instance_uid
        return found[0] == self.patient_id and self.issuer_of_patient_id in (None, found[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredObject:
    """One object of ours that a destination has, or may have."""

    destination: str
    sop_class_uid: str
    sop_instance_uid: str
    state: DeliveryState  # pending: it may have arrived
    sent_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What is kept of somebody."""

    images: tuple[int, ...]
    reports: tuple[int, ...]
    issuers: int  # how many issue this patient ID, nobody counted as one
    peers: tuple[str, ...]  # AE titles that sent the images, and may still have them
    delivered_objects: tuple[DeliveredObject, ...]
    quarantined: tuple[Path, ...]


def find(database: Database, spool: Spool | None, request: ForgetRequest) -> Holdings:
    """Find what is kept of a patient or study, in whatever form it is stored.

    Images that were stored without identifiers are found by their files, where those are still there.

    Parameters
    ----------
    database
        The live database, or a copy.
    spool
        Where its files lie; None: a copy has none.
    request
        Who it is.
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
    """Remove one image: its files, and from its rows whatever names the patient or tells the image again.

    A file is removed before its row is committed: killed in between, it is found again by its row.

    Parameters
    ----------
    session
        A write transaction.
    spool
        Where the files lie; None: this is a copy of the database, which has none.
    image_id
        Which image.
    now
        The time.
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
    _forget_question(session, image.sop_instance_uid)
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
        # All that was sealed with the salt which is gone.
        seals=(
            ("image", image_id),
            ("pixels", image_id),
            *(("report", number) for number in own),
            *(("delivery", number) for number in delivered),
        ),
    )


def forgotten(session: Session) -> dict[int, datetime]:
    """Return every image that was forgotten, and when it was received."""
    rows = session.execute(
        select(Image.id, Image.received_at)
        .join(Identity, Identity.image_id == Image.id)
        .where(Identity.kind == FORGOTTEN)
    )
    return {row.id: row.received_at for row in rows}


def _named(session: Session, request: ForgetRequest) -> set[int]:
    """Find rows that say whose they are."""
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
    """List files of images that were stored without identifiers: the image's own, and those of its reports."""
    nameless = and_(Identity.image_id == Image.id, Identity.kind == "none")
    own = select(Image.id, Image.spool_name).join(Identity, nameless)
    made = (
        select(Image.id, Report.spool_name)
        .join(Identity, nameless)
        .join(Job, Job.image_id == Image.id)
        .join(JobReport, JobReport.job_id == Job.id)
        .join(Report, Report.id == JobReport.report_id)
    )
    for row in (*session.execute(own), *session.execute(made)):
        if row.spool_name is not None:
            yield row.id, spool.path(row.spool_name)


def _reports_of(images: Sequence[int]) -> Select[int]:
    of_images = select(Job.id).where(Job.image_id.in_(images))
    return select(JobReport.report_id).where(JobReport.job_id.in_(of_images)).distinct().order_by(JobReport.report_id)


def _delivered_objects(session: Session, reports: Sequence[int]) -> Iterator[DeliveredObject]:
    """List what a destination took, and what may be on its way there."""
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
    """Reports of this job; one that another image came to as well is of the same instance and content."""
    return select(Report).join(JobReport, JobReport.report_id == Report.id).where(JobReport.job_id == job_id)


def _end_job(session: Session, job_id: int, *, now: datetime) -> None:
    """Let nobody score the image any more; who does so now loses the lease, and removes what it wrote."""
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
        if delivery.state in _ENDS:  # what was sent stays so, and nobody looks for it any more
            to, kind, code = _ENDS[delivery.state]
            columns = {"error_code": code} if code else {}
            facts = {"code": code} if code else {}
            delivery_states.move(session, delivery, to, kind, now=now, facts=facts, due_at=None, **columns)
    session.execute(
        update(Delivery).where(Delivery.report_id == report_id).values(delivered_sop_instance_uid=None),
        execution_options={"synchronize_session": False},
    )


def _forget_question(session: Session, sop_instance_uid: str) -> None:
    """Drop what a peer asked about the image and has no answer to yet: it stands there as the peer wrote it."""
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
