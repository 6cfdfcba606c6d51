"""highdicom's check of a content tree against its SOP class, made once for each shape of tree.

What it checks does not depend on values, but on which items there are, of what value type, and in
what relationship; a model's reports have few shapes, and the check takes half of the time of a report.

References
----------
DICOM PS3.3 Section A.35.13.3.1 (content constraints of Comprehensive 3D SR); Section C.17.2 (evidence)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from highdicom.sr import CodedConcept, Comprehensive3DSR, ContainerContentItem
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ComputedRadiographyImageStorage

from cxr import product
from inference.report.source import SourceImage, shim

if TYPE_CHECKING:
    from collections.abc import Hashable


class TreeCheck:
    """Has highdicom check trees, each shape once."""

    def __init__(self) -> None:
        self._accepted: set[Hashable] = set()

    def __call__(self, image: SourceImage, content: Dataset) -> None:
        """Check a tree, unless one of the same shape was accepted.

        Parameters
        ----------
        image
            What the tree refers to.
        content
            Its root.

        Raises
        ------
        ValueError
            If the tree does not fit the SOP class, or refers to what is no evidence.
        """
        shape = shape_of(content)
        if shape not in self._accepted:
            check(image, content)
            self._accepted.add(shape)


def check(image: SourceImage, content: Dataset) -> Dataset:
    """Let highdicom check a tree and make a document of it, which is returned."""
    document: Dataset = Comprehensive3DSR(
        evidence=[shim(image)],
        content=content,
        series_instance_uid="2.25.1",
        series_number=product.REPORT_SERIES_NUMBER,
        sop_instance_uid="2.25.2",
        instance_number=1,
        manufacturer=product.MANUFACTURER,
    )
    return document


def shape_of(item: Dataset) -> tuple[Any, ...]:
    """Return what of a tree is checked: attributes, value types, relationships and referenced classes, not values."""
    return (
        *item.keys(),
        item.ValueType,
        item.get("RelationshipType"),
        *(reference.ReferencedSOPClassUID for reference in item.get("ReferencedSOPSequence", ())),
        *map(shape_of, item.get("ContentSequence", ())),
    )


def evidence_of(image: SourceImage) -> Sequence:
    """Make Current Requested Procedure Evidence Sequence (0040,A375): the one image that a report is about."""
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID = image.sop_class_uid
    instance.ReferencedSOPInstanceUID = image.sop_instance_uid
    series.ReferencedSOPSequence = [instance]
    series.SeriesInstanceUID = image.series_instance_uid
    study.ReferencedSeriesSequence = [series]
    study.StudyInstanceUID = image.study_instance_uid
    return Sequence([study])


def warm_up() -> None:
    """Make highdicom load its tables (0.4 s, 100 MiB), so that the first report does not wait."""
    image = SourceImage(
        sop_class_uid=ComputedRadiographyImageStorage,
        sop_instance_uid="2.25.1",
        series_instance_uid="2.25.2",
        study_instance_uid="2.25.3",
    )
    empty = ContainerContentItem(name=CodedConcept("126000", "DCM", "Imaging Measurement Report"), template_id="1500")
    empty.ContentSequence = []
    check(image, empty)
