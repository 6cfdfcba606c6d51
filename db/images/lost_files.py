"""A lost file comes back: the object is sent again, and its image gets the file that came.

What retention or an operator removed was not lost: an image that is finished or given up, and whose
row names no file, gets none.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from cxr.domain import JobState
from db.events import EventKind, append_event
from db.jobs import MISSING_OBJECT, requeue
from db.schema.records import KnownImage
from db.schema.tables import Image

_NEED_PIXELS = frozenset({JobState.HELD, JobState.QUEUED, JobState.SCORING, JobState.FAILED})


def needs_file(known: KnownImage, is_lost: Callable[[str], bool]) -> bool:
    """Whether an image should have a file in the spool and has none.

    Parameters
    ----------
    known
        The image and its job.
    is_lost
        Whether the file of a spool name is gone: ``Spool.is_lost``.
    """
    if known.spool_name is None:
        return known.state in _NEED_PIXELS
    return is_lost(known.spool_name)


def restore_file(
    session: Session,
    known: KnownImage,
    spool_name: str | None,
    *,
    now: datetime,
    is_lost: Callable[[str], bool],
) -> bool:
    """Give an image that needs it the file of its resend; a job that failed for want of it is tried again.

    A job that failed for another reason stays failed: its file is not why.

    Parameters
    ----------
    session
        A write transaction: of several resends at once, one restores.
    known
        The image and its job, as this transaction sees them.
    spool_name
        Of the resend's file, durable already; None: it was not kept.
    now
        The time.
    is_lost
        As for `needs_file`.

    Returns
    -------
    bool
        Whether the resend's file is the image's now.
    """
    is_missing = needs_file(known, is_lost)
    is_restored = is_missing and spool_name is not None
    if is_restored:
        image = session.get_one(Image, known.image_id)
        image.spool_name, image.pixels_removed_at = spool_name, None
        session.flush()
        append_event(
            session, EventKind.PIXELS_RESTORED, now=now, image_id=known.image_id, seals=(("pixels", known.image_id),)
        )
    has_file = is_restored or not is_missing
    if has_file and known.state is JobState.FAILED and known.error_code == MISSING_OBJECT:
        requeue(session, known.job_id, now)
    return is_restored
