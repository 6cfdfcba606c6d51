"""Attributes of the source image that a report refers to, and the stand-in dataset for highdicom."""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID

from cxr.dicom import elements
from cxr.errors import ReportError

REFERENCED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "Modality",
    "Rows",
    "Columns",
    "PatientOrientation",
)
"""Attributes that are read here."""

_DIRECTION = re.compile(r"[ALPRHF]{1,3}\Z")
_TYPE_2 = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """The image that a report refers to."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    modality: str | None = None
    rows: int | None = None  # pixels
    columns: int | None = None  # pixels
    patient_orientation: tuple[str, str] | None = None  # (row, column), PS3.3 C.7.6.1.1.1

    def uid_parts(self) -> tuple[str, ...]:
        """Return all fields as strings: they determine the report's content and are parts of its UID."""
        return tuple(str(value) for value in astuple(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceMapReference:
    """The evidence map that a report references: an instance in the image's study.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, series_instance_uid
        UIDs of the evidence map.
    finding
        Finding whose map it shows.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    finding: str


def read_source(header: Dataset) -> SourceImage:
    """Read the attributes that a report refers to.

    Parameters
    ----------
    header
        Received dataset, pixels not needed; its elements stay raw.

    Raises
    ------
    ReportError
        If a UID of the reference is absent or malformed.
    """
    return SourceImage(
        sop_class_uid=_uid(header, "SOPClassUID"),
        sop_instance_uid=_uid(header, "SOPInstanceUID"),
        series_instance_uid=_uid(header, "SeriesInstanceUID"),
        study_instance_uid=_uid(header, "StudyInstanceUID"),
        modality=elements.code_string(header, "Modality"),
        rows=elements.integer(header, "Rows") or None,
        columns=elements.integer(header, "Columns") or None,
        patient_orientation=_orientation(header),
    )


def stand_in(source: SourceImage | EvidenceMapReference, study_instance_uid: str) -> Dataset:
    """Build the dataset that highdicom gets instead of a referenced instance: UIDs, and empty type 2 attributes.

    highdicom fails on absent type 2 attributes, checks values against its own lists, and logs values. The
    report's header is copied from the image itself afterwards.
    """
    dataset = Dataset()
    dataset.SOPClassUID = UID(source.sop_class_uid)
    dataset.SOPInstanceUID = UID(source.sop_instance_uid)
    dataset.SeriesInstanceUID = UID(source.series_instance_uid)
    dataset.StudyInstanceUID = UID(study_instance_uid)
    for keyword in _TYPE_2:
        setattr(dataset, keyword, "")
    return dataset


def _uid(header: Dataset, keyword: str) -> str:
    value = elements.uid(header, keyword)
    if value is None:
        raise ReportError(
            f"{keyword} of the image is absent or not a UID, and a report must refer to it: "
            "have the sender put it right and send the image again."
        )
    return value


def _orientation(header: Dataset) -> tuple[str, str] | None:
    directions = elements.code_strings(header, "PatientOrientation")
    if len(directions) != 2 or not all(_DIRECTION.match(direction) for direction in directions):
        return None
    return directions[0], directions[1]
