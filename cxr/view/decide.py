"""Whether a header describes a frontal radiograph of a human chest: a value, never an exception.

Steps in order: what the object is for, what kind it is, which part of the body, which projection.
The first step that says no decides. Where two sources contradict each other nobody guesses. The
evidence holds words and codes of our own tables alone, never a peer's text.

Whether pixels are there, are of one frame and have one channel is not asked here: an image that
fails for that is reported as failed, with its code.

References
----------
DICOM PS3.3 Sections C.7.6.1.1.1, C.8.1.1, C.8.11.1, C.8.11.5; Lehmann et al. 2003 and Borisov et
al. 2023 on how far these attributes can be trusted
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cxr.domain import ImageHeader, JobState, UnknownView, View, ViewDecision
from cxr.view.attributes import Finding, read_anatomy, read_view

COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"
DIGITAL_XRAY_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
DIGITAL_XRAY_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

SCORABLE_SOP_CLASSES = frozenset({COMPUTED_RADIOGRAPHY, DIGITAL_XRAY_FOR_PRESENTATION, SECONDARY_CAPTURE})
"""Storage classes that a chest radiograph may come in."""

REASONS: Mapping[str, str] = MappingProxyType(
    {
        # Frontal
        "view_code_frontal": "View Code Sequence names a frontal view.",
        "view_position_frontal": "View Position says PA, AP or frontal.",
        "patient_orientation_frontal": "Patient Orientation alone says frontal: weak evidence, taken as frontal.",
        # Refused for what it is
        "own_output": "We made this object ourselves; our results are never taken as input.",
        "not_product": "Content Qualification is RESEARCH or SERVICE.",
        "quality_control_image": "Quality Control Image is YES: the image shows a phantom.",
        "animal": "A species or breed is named, or the anatomy is that of a quadruped.",
        "for_processing": "The image is for processing, not for presentation.",
        "sop_class": "The SOP class is not CR, DX for presentation or Secondary Capture.",
        "sop_class_not_accepted": "The storage class is taken only so that the sender goes on "
        "(listener.accept_all_storage).",
        "modality": "Modality is not that of a projection radiograph.",
        # Refused for the part of the body
        "anatomic_region_not_chest": "Anatomic Region Sequence names another region than chest or lung.",
        "body_part_not_chest": "Body Part Examined names another part than chest, thorax or lung.",
        "body_part_not_listed": "Body Part Examined had a term that is in no table (earlier versions; now unknown).",
        "description_not_chest": "No coded anatomy; the descriptions name another part of the body.",
        # Refused for the projection
        "view_code_not_frontal": "View Code Sequence names another view.",
        "view_position_not_frontal": "View Position says lateral, oblique, decubitus or another projection.",
        "patient_orientation_not_frontal": "Patient Orientation says that the image plane is not frontal.",
        "description_not_frontal": "A text of the series, or Body Part Examined, says lateral; nothing coded frontal.",
        # Unknown
        "anatomy_contradictory": "Anatomic Region, Body Part Examined and the series' texts contradict each other.",
        "view_contradictory": "Some attributes say frontal, others say not frontal.",
        "view_unknown": "Nothing in the header tells the projection.",
    }
)
"""Every reason code of a decision upon the header, with what it means."""

PIXEL_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "pixels_lateral": "The view model sees a lateral chest radiograph.",
        "pixels_not_a_chest": "The view model sees no upright chest radiograph.",
        "pixels_not_as_oriented": "Patient Orientation says turned or mirrored; the pixels, turned back, don't agree.",
        "pixels_unsure": "The view model is not sure that this is a frontal chest radiograph.",
    }
)
"""Every reason code of what the worker sets aside upon the pixels."""

NEVER_ASSUMED = frozenset({"anatomy_contradictory", "view_contradictory"})
"""Unknown views that ``view.unknown`` never sends to the model, whatever it says: a person releases them."""

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
        The received header.

    Returns
    -------
    ViewDecision
        ``NOT_FRONTAL`` is every object that is not a frontal chest radiograph, or must not be used
        as one. ``UNKNOWN`` is an image that a person, or the setting ``view.unknown``, may still
        send to the model. An absent body part is no reason against an image (``is_chest`` None).
    """
    refused = _refuse_object(header)
    if refused is not None:
        reason, evidence = refused
        return ViewDecision(view=View.NOT_FRONTAL, is_chest=None, reason=reason, evidence=evidence)
    anatomy = _judge_anatomy(header)
    if anatomy.is_chest is False:
        return ViewDecision(view=View.NOT_FRONTAL, is_chest=False, reason=anatomy.reason, evidence=anatomy.evidence)
    found = read_view(header)
    view, reason = _judge_view(found)
    if anatomy.is_contradictory and view is not View.NOT_FRONTAL:
        view, reason = View.UNKNOWN, anatomy.reason
    evidence = _merged(anatomy.evidence, found)
    return ViewDecision(view=view, is_chest=anatomy.is_chest, reason=reason, evidence=evidence)


def initial_state(decision: ViewDecision, unknown: UnknownView) -> JobState:
    """Say what happens to an image upon its decision.

    Parameters
    ----------
    decision
        Of ``decide_view``.
    unknown
        The setting ``view.unknown``. Contradictory headers are held even where it says score, or
        model: then the worker looks at the pixels of the others before it scores them.

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
    """Steps 1 and 2: what the object is, and what it is for."""
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
    """Step 3: coded attributes first; descriptions count only where there are none."""
    found = read_anatomy(header)
    evidence = _merged({}, found)
    said = {finding.says for finding in found}
    if said == {True, False}:
        return _Anatomy(None, "anatomy_contradictory", evidence, is_contradictory=True)
    if False in said:
        return _Anatomy(False, found[0].reason, evidence)
    return _Anatomy(True if said else None, "", evidence)


def _merged(evidence: dict[str, str], found: list[Finding]) -> dict[str, str]:
    """Add what was found; one attribute may tell both the part of the body and the projection."""
    merged = dict(evidence)
    for finding in found:
        before = merged.get(finding.keyword)
        merged[finding.keyword] = finding.value if before is None else f"{before} {finding.value}"
    return merged


def _judge_view(found: list[Finding]) -> tuple[View, str]:
    """Weigh the findings.

    Orientation is filled in by the equipment, often without regard to the exposure: it can't
    outweigh a view that somebody chose, and alone it is weak. But whatever says "not frontal"
    stops an image from being scored.
    """
    against = [finding for finding in found if finding.says is False]
    favour = [finding for finding in found if finding.says is True]
    chosen = [finding for finding in favour if finding.keyword != "PatientOrientation"]
    if against:
        return (View.UNKNOWN, "view_contradictory") if chosen else (View.NOT_FRONTAL, against[0].reason)
    return (View.FRONTAL, favour[0].reason) if favour else (View.UNKNOWN, "view_unknown")
