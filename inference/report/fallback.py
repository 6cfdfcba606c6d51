"""Convert a report for a peer that does not accept Comprehensive 3D SR.

The content is legal in the older SR classes unchanged. The converted object is another instance, with UIDs
derived from those of the report. This module does not load highdicom, which delivery does not need.

References
----------
DICOM PS3.3 Sections A.35.2, A.35.3, A.35.13
"""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from cxr.errors import ReportError
from inference.report.uids import derive_uid, series_uid

FALLBACK_SOP_CLASSES: tuple[str, ...] = (str(ComprehensiveSRStorage), str(EnhancedSRStorage))
"""SOP classes proposed beside Comprehensive 3D SR, in order of preference."""


def fallback_uid(sop_instance_uid: str, sop_class_uid: str) -> str:
    """Derive the SOP Instance UID of a report converted to another SOP class.

    The Series Instance UID is ``series_uid`` of the result.

    Parameters
    ----------
    sop_instance_uid
        SOP Instance UID of the Comprehensive 3D SR.
    sop_class_uid
        One of ``FALLBACK_SOP_CLASSES``.
    """
    return derive_uid("fallback", sop_instance_uid, sop_class_uid)


def fallback(sr: Dataset, sop_class_uid: str) -> Dataset:
    """Convert a report to another SR class.

    Parameters
    ----------
    sr
        Comprehensive 3D SR of this application, freshly read so that its text is kept byte for byte; not changed.
    sop_class_uid
        One of ``FALLBACK_SOP_CLASSES``.

    Returns
    -------
    Dataset
        The same content under derived UIDs; encode it with ``part10.encode``.

    Raises
    ------
    ReportError
        If ``sop_class_uid`` is not a fall-back class, or ``sr`` not a Comprehensive 3D SR.
    """
    if sop_class_uid not in FALLBACK_SOP_CLASSES:
        raise ReportError("A report falls back to Comprehensive SR or Enhanced SR only: ask for one of these.")
    if sr.SOPClassUID != Comprehensive3DSRStorage:
        raise ReportError("Only a Comprehensive 3D SR of ours falls back to another SOP class.")
    converted = Dataset()
    converted.update(sr)
    sop_instance_uid = fallback_uid(str(sr.SOPInstanceUID), sop_class_uid)
    # New elements: the others are shared with the report, which stays as it is.
    converted.add_new("SOPClassUID", "UI", sop_class_uid)
    converted.add_new("SOPInstanceUID", "UI", sop_instance_uid)
    converted.add_new("SeriesInstanceUID", "UI", series_uid(sop_instance_uid))
    return converted
