"""What a finished job leaves: scores, reports, and a delivery of each report to each destination."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_new
from sqlalchemy.orm import Session

from cxr.domain import DeliveryState, ScoredImage
from db.events import EventKind, append_event
from db.models import activations
from db.schema.insert import add_row
from db.schema.records import ReportRecord
from db.schema.tables import Delivery, JobReport, Report, Score


def write_scores(session: Session, job_id: int, scored: ScoredImage, *, now: datetime) -> int:
    """Write the model's output.

    Returns
    -------
    int
        The number of the package's row.
    """
    package_id = activations.record_package(
        session,
        fingerprint=scored.fingerprint,
        name=scored.model_name,
        version=scored.model_version,
        status=scored.status,
        now=now,
    )
    rows = [
        {"job_id": job_id, "finding": score.finding, "score": float(score.score), "threshold": score.threshold}
        for score in scored.scores
    ]
    if rows:
        session.execute(insert(Score), rows)
    return package_id


def write_reports(
    session: Session,
    job_id: int,
    image_id: int,
    reports: Sequence[ReportRecord],
    destinations: Sequence[str],
    *,
    now: datetime,
) -> tuple[str, ...]:
    """Write the reports of a job and a delivery of each to each destination.

    Returns
    -------
    tuple[str, ...]
        Spool names of reports that were there already under the same UID: those files are not needed.
    """
    unused = []
    for report in reports:
        report_id, is_used = _write_report(session, job_id, image_id, report, now=now)
        if not is_used:
            unused.append(report.spool_name)
        for destination in destinations:
            write_delivery(session, report_id, job_id, image_id, destination, now=now)
    return tuple(unused)


def _write_report(
    session: Session, job_id: int, image_id: int, report: ReportRecord, *, now: datetime
) -> tuple[int, bool]:
    """Write a report, or find the one that has its UID; the bytes that went out under a UID stay its bytes."""
    known = session.execute(
        select(Report.id, Report.spool_name).where(Report.sop_instance_uid == report.sop_instance_uid)
    ).first()
    report_id = known.id if known else _insert_report(session, report)
    is_used = known is None or known.spool_name is None
    if known and is_used:  # retention took the file of the earlier one
        session.execute(
            update(Report)
            .where(Report.id == report_id)
            .values(spool_name=report.spool_name, content_digest=report.content_digest, removed_at=None),
            execution_options={"synchronize_session": False},
        )
    add_row(session, JobReport, job_id=job_id, report_id=report_id)
    append_event(
        session,
        EventKind.REPORT_REUSED if known else EventKind.REPORT_WRITTEN,
        now=now,
        image_id=image_id,
        job_id=job_id,
        report_id=report_id,
        facts={"kind": report.kind},
        seals=(("report", report_id),),
    )
    return report_id, is_used


def _insert_report(session: Session, report: ReportRecord) -> int:
    return add_row(
        session,
        Report,
        kind=report.kind,
        sop_class_uid=report.sop_class_uid,
        sop_instance_uid=report.sop_instance_uid,
        series_instance_uid=report.series_instance_uid,
        spool_name=report.spool_name,
        content_digest=report.content_digest,
        created_at=report.created_at,
    )


def write_delivery(
    session: Session, report_id: int, job_id: int, image_id: int, destination: str, *, now: datetime
) -> None:
    """Ask for one delivery; a report that is on its way there already, or was sent, is not sent twice.

    Parameters
    ----------
    session
        A write transaction.
    report_id, job_id, image_id
        What is delivered, whose result it is, and of which image.
    destination
        Name of the destination.
    now
        The time; it is due at once.
    """
    delivery_id = session.scalar(
        insert_new(Delivery)
        .values(
            report_id=report_id,
            job_id=job_id,
            destination=destination,
            state=DeliveryState.PENDING,
            attempts=0,
            due_at=now,
            created_at=now,
            updated_at=now,
        )
        .on_conflict_do_nothing(index_elements=[Delivery.report_id, Delivery.destination])
        .returning(Delivery.id)
    )
    if delivery_id is not None:
        append_event(
            session,
            EventKind.DELIVERY_CREATED,
            now=now,
            image_id=image_id,
            job_id=job_id,
            report_id=report_id,
            delivery_id=delivery_id,
            facts={"state": str(DeliveryState.PENDING)},
            seals=(("order", delivery_id), ("delivery", delivery_id)),
        )
