"""What a report says of the image it is about, and what highdicom is given in its place."""

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
"""What is read here."""

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
        """Everything of the image that shows in the report's tree, as parts of its UID."""
        return tuple(str(value) for value in astuple(self))


def read_source(header: Dataset) -> SourceImage:
    """Read what a report refers to.

    Parameters
    ----------
    header
        The received dataset, pixels not needed; its elements stay unconverted.

    Raises
    ------
    ReportError
        If a UID that the reference needs is absent or malformed.
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


def shim(source: SourceImage) -> Dataset:
    """Make the stand-in for the image that highdicom is given.

    highdicom reads type 2 attributes unguarded, checks them against its own lists, and puts values
    into log records; it gets none. The header is finished from the image itself afterwards.

    Parameters
    ----------
    source
        The image.
    """
    stand_in = Dataset()
    stand_in.SOPClassUID = UID(source.sop_class_uid)
    stand_in.SOPInstanceUID = UID(source.sop_instance_uid)
    stand_in.SeriesInstanceUID = UID(source.series_instance_uid)
    stand_in.StudyInstanceUID = UID(source.study_instance_uid)
    for keyword in _TYPE_2:
        setattr(stand_in, keyword, "")
    return stand_in


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
