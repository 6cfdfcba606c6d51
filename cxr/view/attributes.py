"""Read body part and projection from single attributes of a header.

Each function reads one attribute and returns evidence for, against, or None. The recorded values are words and codes
of ``cxr.view.vocabulary`` only, never text of a peer.

References
----------
DICOM PS3.3 Sections C.7.6.1.1.1, C.8.1.1, C.8.11.5
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cxr.domain import ImageHeader
from cxr.view import vocabulary

_DIRECTION = re.compile(r"[ALPRHF]{1,3}")


@dataclass(frozen=True, slots=True)
class Reading:
    """Evidence of one attribute."""

    is_positive: bool | None  # frontal, or chest; None: the chest and another part
    reason: str  # reason code if this attribute decides
    keyword: str
    value: str  # in words of the vocabulary


def read_anatomy(header: ImageHeader) -> list[Reading]:
    """Read the attributes of the body part.

    Coded attributes have priority. Descriptions count without coded attributes (an absent body part is unknown, not
    a rejection), or if those of the series name another part than the coded chest.
    """
    coded = [reading for reading in (_read_region(header), _read_body_part(header)) if reading is not None]
    described = _read_other_parts(header) if coded and coded[0].is_positive else None
    if coded:
        return coded if described is None else [*coded, described]
    return [reading for reading in (_read_descriptions(header),) if reading is not None]


def read_view(header: ImageHeader) -> list[Reading]:
    """Read the attributes of the projection, most reliable first."""
    readers = (_read_view_codes, _read_view_position, _read_orientation, _read_view_words)
    return [reading for reading in (read(header) for read in readers) if reading is not None]


def _read_region(header: ImageHeader) -> Reading | None:
    """Read the anatomic region by its code, or by the meaning of a private code; other codes are unknown."""
    region = header.anatomic_region
    if region is None:
        return None
    reason, keyword = "anatomic_region_not_chest", "AnatomicRegionSequence"
    chest, other = (
        vocabulary.meaning_of(region, vocabulary.CHEST_REGION_CODES),
        vocabulary.meaning_of(region, vocabulary.OTHER_REGION_CODES),
    )
    if chest or other:
        is_chest = chest is not None or (None if "chest" in (other or "") else False)
        return Reading(is_chest, reason, keyword, chest or other or "")
    return _read_part(region.meaning, reason, keyword)


def _read_body_part(header: ImageHeader) -> Reading | None:
    """Read Body Part Examined; a term outside the vocabulary is unknown, like an absent one."""
    return _read_part(header.body_part_examined or "", "body_part_not_chest", "BodyPartExamined")


def _read_part(text: str, reason: str, keyword: str) -> Reading | None:
    others, chest = vocabulary.OTHER_BODY_PARTS.terms_in(text), vocabulary.CHEST.terms_in(text)
    if chest:
        others -= vocabulary.FRONTAL.words  # "thorax de face"
    if not others and not chest:
        return None
    if others <= vocabulary.BESIDE_CHEST and (chest or others & vocabulary.WITH_CHEST) and others:
        return Reading(None, reason, keyword, " ".join(sorted(others | chest)))
    return Reading(not others, reason, keyword, " ".join(sorted(others | chest)))


def _read_descriptions(header: ImageHeader) -> Reading | None:
    """Search the descriptions for a body part: series, protocol, study."""
    for keyword, text in _descriptions(header):
        chest, others = vocabulary.CHEST.terms_in(text or ""), vocabulary.OTHER_BODY_PARTS.terms_in(text or "")
        if chest - others or others:
            # A text that names both ("chest, pelvis") describes the study, not this image.
            return Reading(bool(chest), "description_not_chest", keyword, " ".join(sorted(chest or others)))
    return None


def _read_other_parts(header: ImageHeader) -> Reading | None:
    """Search Series Description and Protocol Name for another body part, which contradicts a coded chest."""
    for keyword, text in _descriptions(header)[:2]:
        others = vocabulary.OTHER_BODY_PARTS.terms_in(text or "") - vocabulary.AMBIGUOUS_PARTS
        if others and not vocabulary.CHEST.terms_in(text or ""):
            return Reading(False, "description_not_chest", keyword, " ".join(sorted(others)))
    return None


def _descriptions(header: ImageHeader) -> tuple[tuple[str, str | None], ...]:
    return (
        ("SeriesDescription", header.series_description),
        ("ProtocolName", header.protocol_name),
        ("StudyDescription", header.study_description),
    )


def _read_view_codes(header: ImageHeader) -> Reading | None:
    """Look up the view codes; a private code is read by its meaning."""
    frontal = [vocabulary.meaning_of(code, vocabulary.FRONTAL_VIEW_CODES) for code in header.view_codes]
    others = [vocabulary.meaning_of(code, vocabulary.OTHER_VIEW_CODES) for code in header.view_codes]
    private = [
        code.meaning for code, *names in zip(header.view_codes, frontal, others, strict=True) if names == [None, None]
    ]
    others += [term for meaning in private for term in sorted(vocabulary.LATERAL.terms_in(meaning))]
    frontal += [term for meaning in private for term in sorted(vocabulary.FRONTAL.terms_in(meaning))]
    meanings = [meaning for meaning in (*others, *frontal) if meaning is not None]
    if not meanings:
        return None
    is_frontal = not any(others)
    reason = "view_code_frontal" if is_frontal else "view_code_not_frontal"
    return Reading(is_frontal, reason, "ViewCodeSequence", ", ".join(dict.fromkeys(meanings)))


def _read_view_position(header: ImageHeader) -> Reading | None:
    text = header.view_position or ""
    words = vocabulary.words_of(text)
    others = (words & vocabulary.OTHER_POSITIONS) | vocabulary.LATERAL.terms_in(text)
    frontal = vocabulary.FRONTAL.terms_in(text)
    value = " ".join(sorted(others | frontal))
    if others:
        return Reading(False, "view_position_not_frontal", "ViewPosition", value)
    return Reading(True, "view_position_frontal", "ViewPosition", value) if frontal else None


def _read_orientation(header: ImageHeader) -> Reading | None:
    """Read the anatomical directions of rows and columns.

    A frontal plane has left or right in one direction, and head or foot in the other. An anterior or posterior
    component makes the plane sagittal, transverse or oblique.
    """
    directions = header.patient_orientation
    if len(directions) != 2 or not all(_DIRECTION.fullmatch(direction) for direction in directions):
        return None
    keyword, value = "PatientOrientation", "\\".join(directions)
    if set("AP") & set("".join(directions)):
        return Reading(False, "patient_orientation_not_frontal", keyword, value)
    first = {direction[0] for direction in directions}
    if first & set("LR") and first & set("HF"):
        return Reading(True, "patient_orientation_frontal", keyword, value)
    return None


def _read_view_words(header: ImageHeader) -> Reading | None:
    """Search the texts for a lateral view; they count against an image, never for it."""
    texts = (
        *_descriptions(header)[:2],
        # The name of the acquisition program
        ("AcquisitionDeviceProcessingDescription", header.processing_description),
        ("BodyPartExamined", header.body_part_examined),
    )
    for keyword, text in texts:
        lateral = vocabulary.LATERAL.terms_in(text or "")
        if lateral and not vocabulary.FRONTAL.terms_in(text or ""):
            return Reading(False, "description_not_frontal", keyword, " ".join(sorted(lateral)))
    return None
