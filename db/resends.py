"""An image that comes again brings its result to the peer that sent it: another than the first, or now bound elsewhere.

The listener notes who sent it. Once the image is reported, the process that delivers asks for what is
missing: the same report to a further destination, never a second report.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert as insert_new
from sqlalchemy.orm import Session

from cxr.domain import JobState, PackageStatus
from db.outcomes import write_delivery
from db.tables import Job, JobReport, Package, Report, Resend


def note(session: Session, image_id: int, peer_ae_title: str) -> None:
    """Note that a peer sent an image again; noted already, it stays so.

    Parameters
    ----------
    session
        A write transaction.
    image_id
        Which image.
    peer_ae_title
        Calling AE title of the peer.
    """
    session.execute(insert_new(Resend).on_conflict_do_nothing(), {"image_id": image_id, "peer_ae_title": peer_ae_title})


def is_any_noted(session: Session) -> bool:
    """Whether there is anything to do for `bring_results`."""
    return session.scalar(select(Resend.image_id).limit(1)) is not None


def bring_results(
    session: Session, destinations_of: Callable[[str, PackageStatus], Sequence[str]], *, limit: int, now: datetime
) -> int:
    """Ask for the deliveries of results whose images came again.

    An image that is not reported yet waits until it is, and one that is not to be scored is forgotten
    about. A report that was delivered there, is on its way, or is no longer kept is left as it is.

    Parameters
    ----------
    session
        A write transaction.
    destinations_of
        Names of the destinations, by the AE title of a peer and the status of the package that scored.
    limit
        How many resends at most.
    now
        The time.

    Returns
    -------
    int
        How many resends are done with.
    """
    # As a subquery, so that SQLite begins with the few resends and not with all jobs in these states.
    state = select(Job.state).where(Job.image_id == Resend.image_id).scalar_subquery()
    done = session.execute(
        select(Resend.image_id, Resend.peer_ae_title)
        .where(state.in_((JobState.REPORTED, JobState.NOT_SCORED)))
        .limit(limit)
    ).all()
    for image_id, peer_ae_title in done:
        _bring(session, image_id, functools.partial(destinations_of, peer_ae_title), now=now)
        session.execute(
            delete(Resend).where(Resend.image_id == image_id, Resend.peer_ae_title == peer_ae_title),
            execution_options={"synchronize_session": False},
        )
    return len(done)


def _bring(
    session: Session, image_id: int, destinations_of: Callable[[PackageStatus], Sequence[str]], *, now: datetime
) -> None:
    kept = session.execute(
        select(Report.id, Job.id, Package.status)
        .join(JobReport, JobReport.report_id == Report.id)
        .join(Job, Job.id == JobReport.job_id)
        .join(Package, Package.id == Job.package_id)
        .where(Job.image_id == image_id, Job.state == JobState.REPORTED, Report.spool_name.is_not(None))
    ).all()
    for report_id, job_id, status in kept:
        for destination in destinations_of(status):
            write_delivery(session, report_id, job_id, image_id, destination, now=now)
