"""Rows of a finished job: scores, reports, and a delivery of each report to each destination."""

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
        Id of the package's row.
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
        Spool names of unneeded files: reports with the same UID exist already.
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
    """Write a report, or reuse the one with its UID: the content of a UID never changes."""
    existing = session.execute(
        select(Report.id, Report.spool_name).where(Report.sop_instance_uid == report.sop_instance_uid)
    ).first()
    report_id = existing.id if existing else _insert_report(session, report)
    is_used = existing is None or existing.spool_name is None
    if existing and is_used:  # retention removed the file of the earlier one
        session.execute(
            update(Report)
            .where(Report.id == report_id)
            .values(spool_name=report.spool_name, content_digest=report.content_digest, removed_at=None),
            execution_options={"synchronize_session": False},
        )
    add_row(session, JobReport, job_id=job_id, report_id=report_id)
    append_event(
        session,
        EventKind.REPORT_REUSED if existing else EventKind.REPORT_WRITTEN,
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
    """Create a delivery, unless this report already has one to this destination.

    Parameters
    ----------
    session
        A write transaction.
    report_id, job_id, image_id
        Report to deliver, its job and image.
    destination
        Name of the destination.
    now
        Current time, aware; the delivery is due at once.
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
