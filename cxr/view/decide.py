"""Decide from the header whether an image is a frontal radiograph of a human chest.

The steps are purpose, kind of object, body part, projection; the first negative step decides. Contradictory
attributes make the view unknown. The decision is a value, never an exception. Its evidence holds words and codes of
``cxr.view.vocabulary`` only, never text of a peer.

Missing pixels, several frames and several channels are not checked here: such an image fails later, with its own
error code.

References
----------
DICOM PS3.3 Sections C.7.6.1.1.1, C.8.1.1, C.8.11.1, C.8.11.5; Lehmann et al. 2003 and Borisov et
al. 2023 (reliability of these attributes)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cxr.domain import ImageHeader, JobState, UnknownView, View, ViewDecision
from cxr.view.attributes import Reading, read_anatomy, read_view

COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"
DIGITAL_XRAY_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
DIGITAL_XRAY_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

SCORABLE_SOP_CLASSES = frozenset({COMPUTED_RADIOGRAPHY, DIGITAL_XRAY_FOR_PRESENTATION, SECONDARY_CAPTURE})
"""Storage SOP classes of chest radiographs that are scored."""

REASONS: Mapping[str, str] = MappingProxyType(
    {
        # Frontal
        "view_code_frontal": "View Code Sequence names a frontal view.",
        "view_position_frontal": "View Position is PA, AP or frontal.",
        "patient_orientation_frontal": "Only Patient Orientation is frontal: weak evidence, accepted.",
        # Refused by kind or purpose
        "own_output": "This service created the object; its own results are never scored.",
        "not_product": "Content Qualification is RESEARCH or SERVICE.",
        "quality_control_image": "Quality Control Image is YES: the image shows a phantom.",
        "animal": "A species or breed is named, or the anatomy is that of a quadruped.",
        "for_processing": "The image is for processing, not for presentation.",
        "sop_class": "The SOP class is not CR, DX for presentation or Secondary Capture.",
        "sop_class_not_accepted": "The storage class is accepted, but not scored, so that the sender does not stop "
        "(listener.accept_all_storage).",
        "modality": "Modality is not that of a projection radiograph.",
        # Refused by body part
        "anatomic_region_not_chest": "Anatomic Region Sequence names another region than chest or lung.",
        "body_part_not_chest": "Body Part Examined names another part than chest, thorax or lung.",
        "body_part_not_listed": "Body Part Examined had a term that is in no table (earlier versions; now unknown).",
        "description_not_chest": "No coded anatomy; the descriptions name another part of the body.",
        # Refused by projection
        "view_code_not_frontal": "View Code Sequence names another view.",
        "view_position_not_frontal": "View Position is lateral, oblique, decubitus or another projection.",
        "patient_orientation_not_frontal": "Patient Orientation describes a plane that is not frontal.",
        "description_not_frontal": "A text of the series or Body Part Examined is lateral; no attribute is frontal.",
        # Unknown
        "chest_and_other_part": "Body Part Examined or Anatomic Region names the chest and another part.",
        "anatomy_contradictory": "Anatomic Region, Body Part Examined and the series' texts contradict each other.",
        "view_contradictory": "Some attributes are frontal, others not.",
        "view_unknown": "No attribute of the header determines the projection.",
    }
)
"""Reason codes of a decision on the header, with their meanings."""

PIXEL_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "pixels_lateral": "The view model classifies the image as a lateral chest radiograph.",
        "pixels_not_a_chest": "The view model does not classify the image as an upright chest radiograph.",
        "pixels_not_as_oriented": "Patient Orientation is rotated or mirrored; the upright pixels contradict it.",
        "pixels_unsure": "The view model is not sure that this is a frontal chest radiograph.",
    }
)
"""Reason codes of images that the worker holds or refuses because of their pixels, with their meanings."""

NEVER_ASSUMED = frozenset({"anatomy_contradictory", "chest_and_other_part", "view_contradictory"})
"""Reasons of unknown views that are held with any setting of ``view.unknown``, until a person releases the image."""

_OTHER_MODALITIES = frozenset(
    {
        *("AR", "BI", "BMD", "CT", "DOC", "DMS", "DG", "ECG", "EPS", "ES", "GM", "HC", "HD", "IVOCT", "IVUS", "IO"),
        *("KO", "LS", "M3D", "MG", "MR", "NM", "OCT", "OP", "OPT", "OPV", "OSS", "PR", "PT", "PX", "RF", "RTDOSE"),
        *("RTIMAGE", "RTPLAN", "RTSTRUCT", "SEG", "SM", "SR", "ST", "TG", "US", "VA", "XA", "XC"),
    }
)


def decide_view(header: ImageHeader) -> ViewDecision:
    """Decide from the header alone whether this is a frontal radiograph of a human chest.

    Parameters
    ----------
    header
        Header of the received image.

    Returns
    -------
    ViewDecision
        ``NOT_FRONTAL``: not a frontal chest radiograph, or not to be used as one. ``UNKNOWN``: a person
        or the setting ``view.unknown`` may still release the image for scoring. An absent body part
        does not count against an image (``is_chest`` None).
    """
    refusal = _refuse_object(header)
    if refusal is not None:
        reason, evidence = refusal
        return ViewDecision(view=View.NOT_FRONTAL, is_chest=None, reason=reason, evidence=evidence)
    anatomy = _judge_anatomy(header)
    if anatomy.is_chest is False:
        return ViewDecision(view=View.NOT_FRONTAL, is_chest=False, reason=anatomy.reason, evidence=anatomy.evidence)
    readings = read_view(header)
    view, reason = _judge_view(readings)
    if anatomy.is_contradictory and view is not View.NOT_FRONTAL:
        view, reason = View.UNKNOWN, anatomy.reason
    evidence = _merged(anatomy.evidence, readings)
    return ViewDecision(view=view, is_chest=anatomy.is_chest, reason=reason, evidence=evidence)


def initial_state(decision: ViewDecision, unknown: UnknownView) -> JobState:
    """Return the initial state of an image's job.

    Parameters
    ----------
    decision
        Result of ``decide_view``.
    unknown
        Setting ``view.unknown``. Images with contradictory headers are held even with ``score`` or ``model``;
        with ``model`` the worker applies the view model to the others before it scores them.

    Returns
    -------
    JobState
        ``QUEUED``, ``HELD`` or ``NOT_SCORED``.
    """
    if decision.is_scorable:
        return JobState.QUEUED
    if decision.view is not View.UNKNOWN or decision.is_chest is False or unknown is UnknownView.REJECT:
        return JobState.NOT_SCORED
    if unknown in (UnknownView.SCORE, UnknownView.MODEL) and decision.reason not in NEVER_ASSUMED:
        return JobState.QUEUED
    return JobState.HELD


def _refuse_object(header: ImageHeader) -> tuple[str, dict[str, str]] | None:
    """Check purpose and kind of the object (steps 1 and 2); return reason and evidence of a refusal."""
    for_processing = header.presentation_intent_type == "FOR PROCESSING"
    checks: tuple[tuple[bool, str, dict[str, str]], ...] = (
        (header.is_own_output, "own_output", {"Manufacturer": "ours"}),
        (
            header.content_qualification in ("RESEARCH", "SERVICE"),
            "not_product",
            {"ContentQualification": header.content_qualification or ""},
        ),
        (header.quality_control_image == "YES", "quality_control_image", {"QualityControlImage": "YES"}),
        (header.is_animal, "animal", {"PatientSpecies": "not human"}),
        (for_processing, "for_processing", {"PresentationIntentType": "FOR PROCESSING"}),
        (
            header.sop_class_uid == DIGITAL_XRAY_FOR_PROCESSING,
            "for_processing",
            {"SOPClassUID": DIGITAL_XRAY_FOR_PROCESSING},
        ),
        (header.sop_class_uid not in SCORABLE_SOP_CLASSES, "sop_class", {"SOPClassUID": "other"}),
        (header.modality in _OTHER_MODALITIES, "modality", {"Modality": header.modality or ""}),
    )
    return next(((reason, evidence) for applies, reason, evidence in checks if applies), None)


@dataclass(frozen=True, slots=True)
class _Anatomy:
    is_chest: bool | None
    reason: str
    evidence: dict[str, str]
    is_contradictory: bool = False


def _judge_anatomy(header: ImageHeader) -> _Anatomy:
    """Judge the body part (step 3)."""
    readings = read_anatomy(header)
    evidence = _merged({}, readings)
    answers = {reading.is_positive for reading in readings}
    if None in answers:
        return _Anatomy(None, "chest_and_other_part", evidence, is_contradictory=True)
    if answers == {True, False}:
        return _Anatomy(None, "anatomy_contradictory", evidence, is_contradictory=True)
    if False in answers:
        return _Anatomy(False, readings[0].reason, evidence)
    return _Anatomy(True if answers else None, "", evidence)


def _merged(evidence: dict[str, str], readings: list[Reading]) -> dict[str, str]:
    """Add readings to evidence; join those of one attribute, which may count for body part and projection."""
    merged = dict(evidence)
    for reading in readings:
        before = merged.get(reading.keyword)
        merged[reading.keyword] = reading.value if before is None else f"{before} {reading.value}"
    return merged


def _judge_view(readings: list[Reading]) -> tuple[View, str]:
    """Judge the projection (step 4).

    Equipment often sets Patient Orientation to a default, whatever the exposure: a positive one does not
    contradict a negative reading of another attribute. Any negative reading prevents scoring.
    """
    negative = [reading for reading in readings if not reading.is_positive]
    positive = [reading for reading in readings if reading.is_positive]
    has_explicit_view = any(reading.keyword != "PatientOrientation" for reading in positive)
    if negative:
        return (View.UNKNOWN, "view_contradictory") if has_explicit_view else (View.NOT_FRONTAL, negative[0].reason)
    return (View.FRONTAL, positive[0].reason) if positive else (View.UNKNOWN, "view_unknown")
