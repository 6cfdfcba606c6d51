"""Read the headers of a folder of DICOM files; select frontal chest radiographs by the service's view decision."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from cxr.dicom import elements, open_dataset, read_header
from cxr.domain import ImageHeader, View, ViewDecision
from cxr.errors import IntakeError
from cxr.view import SECONDARY_CAPTURE, decide_view
from training.adapters.reading.dataset_folder import all_files
from training.adapters.reading.result import Rejection, ReportProgress
from training.adapters.reading.values import age_of, date_of, iso, sex_of

_EVERY = 200  # files between two calls of the progress callback
_DATES = ("AcquisitionDate", "SeriesDate", "StudyDate")
_PROCESSED = re.compile(
    r"bone.?(sup|sub)|soft.?tissue|clear.?read|(line|tube|catheter).?enh|enhanced|dual.?energy|\bcad\b|invert", re.I
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomImage:
    """Path and header values of one image."""

    path: Path
    header: ImageHeader
    view: str  # as in a manifest
    sex: str
    age: float | None  # years
    acquired_on: date | None
    manufacturer: str
    model: str
    institution: str

    def row(self, *, image_id: str, source: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 (a manifest's values)
        """Return the image's row of a manifest; values that the header lacks are empty."""
        patient_id = self.header.patient_id or ""
        return {
            "image_id": image_id,
            "path": str(self.path),
            "source": source,
            "patient_id": patient_id,
            "study_id": self.header.study_instance_uid or "",
            "view": self.view,
            "sex": self.sex,
            "age": self.age,
            "manufacturer": self.manufacturer,
            "model": self.model,
            "acquired_on": iso(self.acquired_on),
            "image_wise": "" if patient_id else "yes",
        } | more


def read_image(path: Path, *, unknown_views: bool = False, originals_only: bool = False) -> DicomImage | str:
    """Read one file's header.

    Parameters
    ----------
    path
        A DICOM file.
    unknown_views
        Accept chest radiographs without a projection in the header.
    originals_only
        Leave out secondary captures and processed copies.

    Returns
    -------
    DicomImage or str
        A key of ``REASONS`` if it is no frontal chest radiograph.

    Raises
    ------
    OSError
        If the file can't be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values: a patient's
        try:
            dataset = open_dataset(path)
            header = read_header(dataset)
        except IntakeError:
            return "not_dicom"
        decision = decide_view(header)
        if not _is_accepted(decision, unknown_views=unknown_views):
            return decision.reason
        if originals_only and (copy := _copy_reason(header)):
            return copy
        return _image(path, dataset, header)


def scan(
    root: Path, rejected: list[Rejection], *, watch: ReportProgress, besides: Collection[Path] = (),
    unknown_views: bool = False, originals_only: bool = False,
) -> list[DicomImage]:  # fmt: skip
    """Read every file below a folder.

    Parameters
    ----------
    root
        The folder.
    rejected
        Files that are not accepted are added to it.
    watch
        Called with a step's name, how many are done, and of how many.
    besides
        Tables in the folder, which are no images.
    unknown_views, originals_only
        As for ``read_image``.

    Returns
    -------
    list[DicomImage]
        In the order of their paths; one for each SOP Instance UID.
    """
    paths = list(all_files(root, besides=besides))
    images: list[DicomImage] = []
    uids: set[str] = set()
    for number, path in enumerate(paths, start=1):
        image = read_image(path, unknown_views=unknown_views, originals_only=originals_only)
        if isinstance(image, str):
            rejected.append(Rejection(_name(path, root), 0, image))
        elif image.header.sop_instance_uid in uids:
            rejected.append(Rejection(_name(path, root), 0, "duplicate"))
        else:
            uids.add(image.header.sop_instance_uid)
            images.append(image)
        if number % _EVERY == 0 or number == len(paths):
            watch("headers", number, len(paths))
    return images


def reject_image(image: DicomImage, root: Path, reason: str) -> Rejection:
    """Return the rejection of a file that was read."""
    return Rejection(_name(image.path, root), 0, reason)


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _is_accepted(decision: ViewDecision, *, unknown_views: bool) -> bool:
    is_unknown = decision.view is View.UNKNOWN and decision.reason == "view_unknown"
    return decision.is_scorable or (unknown_views and is_unknown)


def _copy_reason(header: ImageHeader) -> str:
    if header.sop_class_uid == SECONDARY_CAPTURE or "SECONDARY" in header.image_type[1:2]:
        return "secondary_capture"
    descriptions = " ".join(filter(None, (header.series_description, *header.image_type)))
    return "processed_copy" if _PROCESSED.search(descriptions) else ""


def _image(path: Path, dataset: Dataset, header: ImageHeader) -> DicomImage:
    dates = (date_of(elements.text(dataset, keyword) or "") for keyword in _DATES)
    return DicomImage(
        path=path,
        header=header,
        view=header.view_position if header.view_position in ("PA", "AP") else "unknown",
        sex=sex_of(elements.text(dataset, "PatientSex") or ""),
        age=age_of(elements.text(dataset, "PatientAge") or ""),
        acquired_on=next((day for day in dates if day is not None), None),
        manufacturer=elements.text(dataset, "Manufacturer") or "",
        model=elements.text(dataset, "ManufacturerModelName") or "",
        institution=elements.text(dataset, "InstitutionName") or "",
    )
