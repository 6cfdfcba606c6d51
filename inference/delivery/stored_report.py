"""Reports in the spool, read back to be sent."""

from __future__ import annotations

import warnings
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError

from cxr.errors import ReportUnreadable


def study_of(path: Path) -> str | None:
    """Read the Study Instance UID of a report in the spool; None: the file is missing or damaged, or has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = dcmread(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True)
        return str(header.StudyInstanceUID)
    except (OSError, InvalidDicomError, EOFError, ValueError, KeyError, AttributeError):
        return None


def read_report(path: Path) -> FileDataset:
    """Read the whole file of a report; elements keep their encoding until they are accessed.

    Parameters
    ----------
    path
        The file in the spool.

    Raises
    ------
    ReportUnreadable
        If the file is missing or damaged.
    """
    try:
        with warnings.catch_warnings():
            # Warnings of pydicom contain values, which may be a patient's.
            warnings.simplefilter("ignore")
            return dcmread(path)
    except (OSError, InvalidDicomError, EOFError, ValueError, KeyError) as error:
        raise ReportUnreadable(
            "The report's file is missing from the spool or damaged: restore it from a backup and requeue the delivery."
        ) from error
