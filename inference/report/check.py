"""highdicom's check of a content tree against its SOP class, once per tree shape.

The check depends on items, value types and relationships, not on values. A model's reports have few shapes, and
the check takes half of the time of a report.

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
from inference.report.source import EvidenceMapReference, SourceImage, stand_in

if TYPE_CHECKING:
    from collections.abc import Hashable


class TreeCheck:
    """Check content trees with highdicom, each shape once."""

    def __init__(self) -> None:
        self._accepted: set[Hashable] = set()

    def __call__(self, image: SourceImage, content: Dataset, evidence_map: EvidenceMapReference | None = None) -> None:
        """Check a tree, unless a tree of the same shape was accepted before.

        Parameters
        ----------
        image
            Image that the tree references.
        content
            Root content item.
        evidence_map
            Evidence map that the tree references; None: none.

        Raises
        ------
        ValueError
            If the tree violates the SOP class, or references an instance outside the evidence sequence.
        """
        shape = tree_shape(content)
        if shape not in self._accepted:
            check(image, content, evidence_map)
            self._accepted.add(shape)


def check(image: SourceImage, content: Dataset, evidence_map: EvidenceMapReference | None = None) -> Dataset:
    """Check a tree by building highdicom's document from it; return the document."""
    instances: list[SourceImage | EvidenceMapReference] = [image]
    if evidence_map is not None:
        instances.append(evidence_map)
    document: Dataset = Comprehensive3DSR(
        evidence=[stand_in(instance, image.study_instance_uid) for instance in instances],
        content=content,
        series_instance_uid="2.25.1",
        series_number=product.REPORT_SERIES_NUMBER,
        sop_instance_uid="2.25.2",
        instance_number=1,
        manufacturer=product.MANUFACTURER,
    )
    return document


def tree_shape(item: Dataset) -> tuple[Any, ...]:
    """Return the shape of a tree: attributes, value types, relationships and referenced SOP classes, without values."""
    return (
        *item.keys(),
        item.ValueType,
        item.get("RelationshipType"),
        *(reference.ReferencedSOPClassUID for reference in item.get("ReferencedSOPSequence", ())),
        *map(tree_shape, item.get("ContentSequence", ())),
    )


def evidence_sequence(image: SourceImage, evidence_map: EvidenceMapReference | None = None) -> Sequence:
    """Build Current Requested Procedure Evidence Sequence (0040,A375): the source image and the evidence map."""
    study = Dataset()
    study.ReferencedSeriesSequence = [_series_item(image)]
    if evidence_map is not None:
        study.ReferencedSeriesSequence.append(_series_item(evidence_map))
    study.StudyInstanceUID = image.study_instance_uid
    return Sequence([study])


def _series_item(referenced: SourceImage | EvidenceMapReference) -> Dataset:
    instance, series = Dataset(), Dataset()
    instance.ReferencedSOPClassUID = referenced.sop_class_uid
    instance.ReferencedSOPInstanceUID = referenced.sop_instance_uid
    series.ReferencedSOPSequence = [instance]
    series.SeriesInstanceUID = referenced.series_instance_uid
    return series


def warm_up() -> None:
    """Load highdicom's tables (0.4 s, 100 MiB) ahead of the first report."""
    image = SourceImage(
        sop_class_uid=ComputedRadiographyImageStorage,
        sop_instance_uid="2.25.1",
        series_instance_uid="2.25.2",
        study_instance_uid="2.25.3",
    )
    empty = ContainerContentItem(name=CodedConcept("126000", "DCM", "Imaging Measurement Report"), template_id="1500")
    empty.ContentSequence = []
    check(image, empty)
