"""Reading a report back from the spool, to send it."""

from __future__ import annotations

import warnings
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError

from cxr.errors import ReportUnreadable


def study_of(path: Path) -> str | None:
    """Read the Study Instance UID of a report in the spool; None: the file is gone, damaged, or has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = dcmread(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True)
        return str(header.StudyInstanceUID)
    except (OSError, InvalidDicomError, EOFError, ValueError, KeyError, AttributeError):
        return None


def read_report(path: Path) -> FileDataset:
    """Read a report's file whole; its elements stay as they are in the file until they are looked at.

    Parameters
    ----------
    path
        The file in the spool.

    Raises
    ------
    ReportUnreadable
        If it is gone or damaged.
    """
    try:
        with warnings.catch_warnings():
            # On purpose: pydicom names values in its warnings, and these would be a patient's.
            warnings.simplefilter("ignore")
            return dcmread(path)
    except (OSError, InvalidDicomError, EOFError, ValueError, KeyError) as error:
        raise ReportUnreadable(
            "The report's file is gone from the spool or damaged: restore it from a backup and requeue the delivery."
        ) from error
