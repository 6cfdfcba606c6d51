"""Content tree of a report: TID 1500 with research marks.

highdicom builds the report, the observer context, the measurement groups and the measurements. It has no argument
for the title modifier, the notice, an image library without its failures, the algorithm identification on
the container, and comments: these items are inserted here.

References
----------
DICOM PS3.16 TID 1001, 1004, 1204, 1500, 1501, 300, 1600, 4019
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation
from pydicom.valuerep import DSfloat

from cxr import product
from cxr.errors import ReportError
from cxr.labels import FINDINGS
from inference.report import codes
from inference.report.uids import derive_uid
from inference.report.words import GROUP_COMMENT, algorithm_parameters, wording_for

if TYPE_CHECKING:
    from cxr.domain import Code, Score, ScoredImage
    from cxr.package import PackageManifest
    from inference.report.source import EvidenceMapReference, SourceImage

_CONTAINS = sr.RelationshipTypeValues.CONTAINS
_HAS_CONCEPT_MOD = sr.RelationshipTypeValues.HAS_CONCEPT_MOD
_HAS_ACQ_CONTEXT = sr.RelationshipTypeValues.HAS_ACQ_CONTEXT


def build_tree(
    source: SourceImage,
    scored: ScoredImage,
    package: PackageManifest,
    *,
    title: Code,
    device_uid: str,
    evidence_map: EvidenceMapReference | None = None,
) -> Dataset:
    """Build the content tree.

    Parameters
    ----------
    source
        Scored image.
    scored
        Scores of the image.
    package
        Manifest of the model package.
    title
        Concept name of the root.
    device_uid
        Device Observer UID (TID 1004): identifies this model in this application.
    evidence_map
        Evidence map to reference in the group of its finding; None: there is none.

    Returns
    -------
    Dataset
        Root content item; Continuity of Content is SEPARATE in every container.

    Raises
    ------
    ReportError
        If there is no score, or a score outside [0, 1].
    """
    if not scored.scores:
        raise ReportError("A report needs at least one score; the model gave none.")
    report = sr.MeasurementReport(
        observation_context=_observer(scored, device_uid),
        procedure_reported=_concept(codes.XR_CHEST_VIEWS),
        imaging_measurements=[_group(source, score, scored, package, device_uid) for score in scored.scores],
        title=_concept(title),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(_concept(codes.ENGLISH)),
    )
    root: Dataset = report[0]
    *context, measurements = root.ContentSequence
    for group, score in zip(measurements.ContentSequence, scored.scores, strict=True):
        _add_to_group(group, score, evidence_map)
    measurements.ContentSequence = [*_algorithm(scored, package), *measurements.ContentSequence]
    wording = wording_for(scored.status)
    root.ContentSequence = [
        _code_item(codes.DOCUMENT_TITLE_MODIFIER, codes.FOR_RESEARCH, _HAS_CONCEPT_MOD),
        *context,
        _text_item(codes.NOTICE, wording.notice),
        _text_item(codes.MODEL, f"{wording.prefix}{scored.model_name} {scored.model_version}"),
        _image_library(source),
        measurements,
        _evaluations(wording.notice, scored.warnings),
    ]
    for container in _containers(root):
        # With highdicom's CONTINUOUS, dsr2html and Weasis drop the names of the items.
        container.ContinuityOfContent = "SEPARATE"
    return root


def _observer(scored: ScoredImage, device_uid: str) -> sr.ObservationContext:
    prefix = wording_for(scored.status).prefix
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=device_uid,
        name=product.APPLICATION,
        manufacturer_name=product.MANUFACTURER,
        model_name=f"{prefix}{scored.model_name} {scored.model_version}",
    )
    context = sr.ObserverContext(observer_type=_concept(codes.DEVICE), observer_identifying_attributes=device)
    return sr.ObservationContext(observer_device_context=context)


def _algorithm(scored: ScoredImage, package: PackageManifest) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(
        name=f"{wording_for(scored.status).prefix}{scored.model_name}",
        version=scored.model_version,
        manufacturer=product.MANUFACTURER,
        parameters=algorithm_parameters(scored, package),
        family=_concept(codes.ARTIFICIAL_INTELLIGENCE),
    )


def _group(
    source: SourceImage, score: Score, scored: ScoredImage, package: PackageManifest, device_uid: str
) -> sr.MeasurementsAndQualitativeEvaluations:
    finding = next((item.code for item in package.classes if item.finding == score.finding), None)
    if finding is None:
        raise ReportError("A score names a finding that the model package does not have: the package is inconsistent.")
    label = FINDINGS.get(score.finding)
    site = label.finding_site if label is not None else None
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=derive_uid("tracking", source.sop_instance_uid, device_uid, score.finding),
            identifier=f"{wording_for(scored.status).prefix}{scored.model_name}:{score.finding}",
        ),
        finding_type=_concept(finding),
        finding_sites=[sr.FindingSite(anatomic_location=_concept(site))] if site is not None else None,
        measurements=[_measurement(source, score), *_operating_point(score)],
        qualitative_evaluations=_comparison(score),
        source_images=[sr.SourceImageForMeasurementGroup(source.sop_class_uid, source.sop_instance_uid)],
    )


def _measurement(source: SourceImage, score: Score) -> sr.Measurement:
    if not (math.isfinite(score.score) and 0 <= score.score <= 1):
        raise ReportError("A score is not a number from 0 to 1: the model package is faulty; promote another one.")
    image = sr.SourceImageForMeasurement(source.sop_class_uid, source.sop_instance_uid)
    return _percentage(codes.CERTAINTY_OF_FINDING, score.score, [image])


def _operating_point(score: Score) -> list[sr.Measurement]:
    return [] if score.threshold is None else [_percentage(codes.OPERATING_POINT, score.threshold)]


def _percentage(
    concept: Code, fraction: float, images: list[sr.SourceImageForMeasurement] | None = None
) -> sr.Measurement:
    percent = float(fraction) * 100
    measurement = sr.Measurement(
        name=_concept(concept), value=percent, unit=_concept(codes.PERCENT), referenced_images=images
    )
    # Numeric Value has two decimals for readers; Floating Point Value keeps the exact value.
    _write_number(measurement[0], f"{percent:.2f}")
    return measurement


def _add_to_group(group: Dataset, score: Score, evidence_map: EvidenceMapReference | None) -> None:
    """Insert the comment on the group before its score, and reference the evidence map at its end."""
    first_number = next(index for index, item in enumerate(group.ContentSequence) if item.ValueType == "NUM")
    group.ContentSequence.insert(first_number, _text_item(codes.COMMENT, GROUP_COMMENT))
    if evidence_map is not None and evidence_map.finding == score.finding:
        group.ContentSequence.append(
            sr.ImageContentItem(
                name=_concept(codes.EVIDENCE_MAP),
                referenced_sop_class_uid=evidence_map.sop_class_uid,
                referenced_sop_instance_uid=evidence_map.sop_instance_uid,
                relationship_type=_CONTAINS,
            )
        )


def _comparison(score: Score) -> list[sr.QualitativeEvaluation]:
    if score.is_at_or_above is None:
        return []
    value = codes.AT_OR_ABOVE if score.is_at_or_above else codes.BELOW
    return [sr.QualitativeEvaluation(name=_concept(codes.THRESHOLD_COMPARISON), value=_concept(value))]


def _image_library(source: SourceImage) -> sr.ContainerContentItem:
    """Build TID 1600; highdicom's own needs attributes that real radiographs lack."""
    image = sr.ImageContentItem(
        name=_concept(codes.SOURCE),
        referenced_sop_class_uid=source.sop_class_uid,
        referenced_sop_instance_uid=source.sop_instance_uid,
        relationship_type=_CONTAINS,
    )
    image.ContentSequence = list(_image_descriptors(source))
    return _container(codes.IMAGE_LIBRARY, [_container(codes.IMAGE_LIBRARY_GROUP, [image])])


def _image_descriptors(source: SourceImage) -> Iterator[sr.ContentItem]:
    yield _code_item(codes.MODALITY, codes.MODALITIES[_modality(source)], _HAS_ACQ_CONTEXT)
    for concept, size in ((codes.PIXEL_DATA_ROWS, source.rows), (codes.PIXEL_DATA_COLUMNS, source.columns)):
        if size is not None:
            yield _count(concept, size)
    if source.patient_orientation is not None:
        row, column = source.patient_orientation
        yield _text_item(codes.PATIENT_ORIENTATION_ROW, row, _HAS_ACQ_CONTEXT)
        yield _text_item(codes.PATIENT_ORIENTATION_COLUMN, column, _HAS_ACQ_CONTEXT)


def _modality(source: SourceImage) -> str:
    """Return the modality by SOP class; for Secondary Captures the one stated in the header, else OT."""
    by_class = {str(ComputedRadiographyImageStorage): "CR", str(DigitalXRayImageStorageForPresentation): "DX"}
    stated = source.modality if source.modality in codes.MODALITIES else None
    return by_class.get(source.sop_class_uid) or stated or "OT"


def _evaluations(notice: str, warnings: tuple[str, ...]) -> sr.ContainerContentItem:
    comments = [notice]
    if warnings:
        comments.append(f"Checks that this image or its score did not pass: {', '.join(warnings)}")
    return _container(codes.QUALITATIVE_EVALUATIONS, [_text_item(codes.COMMENT, text) for text in comments])


def _container(concept: Code, items: Iterable[sr.ContentItem]) -> sr.ContainerContentItem:
    container = sr.ContainerContentItem(_concept(concept), relationship_type=_CONTAINS)
    container.ContentSequence = list(items)
    return container


def _text_item(concept: Code, text: str, relationship: sr.RelationshipTypeValues = _CONTAINS) -> sr.TextContentItem:
    return sr.TextContentItem(_concept(concept), text, relationship_type=relationship)


def _code_item(concept: Code, value: Code, relationship: sr.RelationshipTypeValues) -> sr.CodeContentItem:
    return sr.CodeContentItem(_concept(concept), _concept(value), relationship_type=relationship)


def _concept(code: Code) -> sr.CodedConcept:
    return sr.CodedConcept(value=code.value, scheme_designator=code.scheme_designator, meaning=code.meaning)


def _count(concept: Code, pixels: int) -> sr.NumContentItem:
    item = sr.NumContentItem(_concept(concept), pixels, _concept(codes.PIXELS), relationship_type=_HAS_ACQ_CONTEXT)
    _write_number(item, str(pixels))
    return item


def _write_number(item: Dataset, decimal: str) -> None:
    """Set Numeric Value (0040,A30A) to a rounded decimal; highdicom writes all digits of the float."""
    item.MeasuredValueSequence[0].NumericValue = DSfloat(decimal)


def _containers(item: Dataset) -> Iterator[Dataset]:
    if item.ValueType == "CONTAINER":
        yield item
    for child in item.get("ContentSequence", ()):
        yield from _containers(child)
