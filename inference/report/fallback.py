"""The same report for a peer that does not take Comprehensive 3D SR.

The content is legal in the older SR classes as it is. The object is another instance, so it has
UIDs of its own, derived from those of the report. Needs no highdicom, so that delivery stays light.

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
"""What a peer is offered beside Comprehensive 3D SR, in this order."""


def fallback_uid(sop_instance_uid: str, sop_class_uid: str) -> str:
    """Derive the SOP Instance UID that a report has in another SOP class.

    Its Series Instance UID is ``series_uid`` of this one.

    Parameters
    ----------
    sop_instance_uid
        Of the Comprehensive 3D SR.
    sop_class_uid
        One of ``FALLBACK_SOP_CLASSES``.
    """
    return derive_uid("fallback", sop_instance_uid, sop_class_uid)


def fallback(sr: Dataset, sop_class_uid: str) -> Dataset:
    """Make the same report in another SR class.

    Parameters
    ----------
    sr
        A Comprehensive 3D SR of ours; it is not changed. Freshly read, its text is kept byte for byte.
    sop_class_uid
        One of ``FALLBACK_SOP_CLASSES``.

    Returns
    -------
    Dataset
        The same content under UIDs of its own; ``encode`` makes its file.

    Raises
    ------
    ReportError
        If either object has another SOP class than these.
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
