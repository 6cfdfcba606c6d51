"""Deliveries of results to the destinations of peers that sent an image again.

The listener records the peer of each resend. Once the image is reported, the delivering process creates the missing
deliveries: the same report to a further destination, never a second report.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.dialects.sqlite import insert as insert_new
from sqlalchemy.orm import Session

from cxr.domain import JobState, PackageStatus
from db.jobs import write_delivery
from db.schema.tables import Image, Job, JobReport, Package, Report, Resend

DestinationsOf = Callable[[str, Collection[str], PackageStatus], Sequence[str]]
"""Function of the AE title of the peer of a resend, the AE titles of all senders of the image and the status of the
package that scored it; returns the names of the destinations of the result."""


def record_resend(session: Session, image_id: int, peer_ae_title: str) -> None:
    """Record that a peer sent an image again.

    Parameters
    ----------
    session
        A write transaction.
    image_id
        The image.
    peer_ae_title
        Calling AE title of the peer.
    """
    session.execute(
        insert_new(Resend).on_conflict_do_update(
            index_elements=[Resend.image_id, Resend.peer_ae_title], set_={"brought_at": None}
        ),
        {"image_id": image_id, "peer_ae_title": peer_ae_title},
    )


def is_any_due(session: Session) -> bool:
    """Return whether `create_deliveries` has a resend to process."""
    return session.scalar(select(Resend.image_id).where(_is_due()).limit(1)) is not None


def create_deliveries(session: Session, destinations_of: DestinationsOf, *, limit: int, now: datetime) -> int:
    """Create the missing deliveries of reported images that were sent again.

    Images that are not reported yet wait. Existing deliveries, dead ones included, and reports that are no longer
    stored stay unchanged.

    Parameters
    ----------
    session
        A write transaction.
    destinations_of
        Returns the destinations of a result.
    limit
        Maximum number of resends.
    now
        Current time, aware.

    Returns
    -------
    int
        Number of processed resends.
    """
    due = session.execute(select(Resend.image_id, Resend.peer_ae_title).where(_is_due()).limit(limit)).all()
    for image_id, peer_ae_title in due:
        senders = _senders(session, image_id)
        for report_id, job_id, status in _kept_reports(session, image_id):
            for destination in destinations_of(peer_ae_title, senders, status):
                write_delivery(session, report_id, job_id, image_id, destination, now=now)
        session.execute(
            update(Resend)
            .where(Resend.image_id == image_id, Resend.peer_ae_title == peer_ae_title)
            .values(brought_at=now),
            execution_options={"synchronize_session": False},
        )
    return len(due)


def _is_due() -> ColumnElement[bool]:
    # A subquery, so that SQLite starts with the few resends, not with all reported jobs.
    state = select(Job.state).where(Job.image_id == Resend.image_id).scalar_subquery()
    return and_(Resend.brought_at.is_(None), state == JobState.REPORTED)


def _senders(session: Session, image_id: int) -> frozenset[str]:
    first = select(Image.peer_ae_title).where(Image.id == image_id)
    return frozenset(session.scalars(first.union(select(Resend.peer_ae_title).where(Resend.image_id == image_id))))


def _kept_reports(session: Session, image_id: int) -> Sequence[tuple[int, int, PackageStatus]]:
    rows = session.execute(
        select(Report.id, Job.id, Package.status)
        .join(JobReport, JobReport.report_id == Report.id)
        .join(Job, Job.id == JobReport.job_id)
        .join(Package, Package.id == Job.package_id)
        .where(Job.image_id == image_id, Report.spool_name.is_not(None))
    )
    return [(report_id, job_id, status) for report_id, job_id, status in rows]
