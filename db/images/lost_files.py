"""Restore lost files: the file of a resend replaces the lost file of its image.

A file removed by retention or by an operator is not lost: a finished or discarded image without a file gets none.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from cxr.domain import JobState
from db.events import EventKind, append_event
from db.jobs import MISSING_OBJECT, requeue
from db.schema.records import LatestImage
from db.schema.tables import Image

_NEED_PIXELS = frozenset({JobState.HELD, JobState.QUEUED, JobState.SCORING, JobState.FAILED})


def needs_file(latest: LatestImage, is_lost: Callable[[str], bool]) -> bool:
    """Return whether the file of an image is missing but needed.

    Parameters
    ----------
    latest
        The image and its job.
    is_lost
        Returns whether the file of a spool name is lost: ``Spool.is_lost``.
    """
    if latest.spool_name is None:
        return latest.state in _NEED_PIXELS
    return is_lost(latest.spool_name)


def restore_file(
    session: Session,
    latest: LatestImage,
    spool_name: str | None,
    *,
    now: datetime,
    is_lost: Callable[[str], bool],
) -> bool:
    """Replace the lost file of an image by that of its resend, and requeue a job that failed for the missing file.

    A job that failed for another reason stays failed.

    Parameters
    ----------
    session
        A write transaction: of several simultaneous resends, one restores.
    latest
        The image and its job, read in this transaction.
    spool_name
        The resend's file, already durable; None: it was not kept.
    now
        Current time, aware.
    is_lost
        As for `needs_file`.

    Returns
    -------
    bool
        Whether the image now has the resend's file.
    """
    is_missing = needs_file(latest, is_lost)
    is_restored = is_missing and spool_name is not None
    if is_restored:
        image = session.get_one(Image, latest.image_id)
        image.spool_name, image.pixels_removed_at = spool_name, None
        session.flush()
        append_event(
            session, EventKind.PIXELS_RESTORED, now=now, image_id=latest.image_id, seals=(("pixels", latest.image_id),)
        )
    has_file = is_restored or not is_missing
    if has_file and latest.state is JobState.FAILED and latest.error_code == MISSING_OBJECT:
        requeue(session, latest.job_id, now)
    return is_restored
