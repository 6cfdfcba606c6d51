"""What single attributes of a header say about the part of the body and the projection.

Each reader looks at one attribute and says yes, no or nothing. What it read is given in words and
codes of our own tables alone, never in a peer's text.

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
class Finding:
    """What one attribute says."""

    says: bool  # frontal, or chest
    reason: str  # the reason code, should this attribute decide
    keyword: str
    value: str  # of our own tables


def read_anatomy(header: ImageHeader) -> list[Finding]:
    """Read what the header says of the part of the body.

    Coded attributes first; descriptions count where there are none (an absent body part is unknown, not a
    rejection), or where the series' own name another part than the coded chest.
    """
    coded = [finding for finding in (_read_region(header), _read_body_part(header)) if finding is not None]
    described = _read_other_parts(header) if coded and coded[0].says else None
    if coded:
        return coded if described is None else [*coded, described]
    return [finding for finding in (_read_descriptions(header),) if finding is not None]


def read_view(header: ImageHeader) -> list[Finding]:
    """Read everything that tells the projection, most trusted first."""
    readings = (_read_view_codes, _read_view_position, _read_orientation, _read_view_words)
    return [finding for finding in (read(header) for read in readings) if finding is not None]


def _read_region(header: ImageHeader) -> Finding | None:
    """Look for the coded region, by code or, where that is a site's own, by its meaning; another code is unknown."""
    region = header.anatomic_region
    if region is None:
        return None
    reason, keyword = "anatomic_region_not_chest", "AnatomicRegionSequence"
    chest, other = (
        vocabulary.meaning_of(region, vocabulary.CHEST_REGION_CODES),
        vocabulary.meaning_of(region, vocabulary.OTHER_REGION_CODES),
    )
    if chest or other:
        return Finding(chest is not None, reason, keyword, chest or other or "")
    return _read_part(region.meaning, reason, keyword)


def _read_body_part(header: ImageHeader) -> Finding | None:
    """Look for the part of the body; a word that is in no table is unknown, as an absent one."""
    return _read_part(header.body_part_examined or "", "body_part_not_chest", "BodyPartExamined")


def _read_part(text: str, reason: str, keyword: str) -> Finding | None:
    others, chest = vocabulary.OTHER_BODY_PARTS.found_in(text), vocabulary.CHEST.found_in(text)
    if chest:
        others -= vocabulary.FRONTAL.words  # "thorax de face"
    if not others and not chest:
        return None
    return Finding(not others, reason, keyword, " ".join(sorted(others | chest)))


def _read_descriptions(header: ImageHeader) -> Finding | None:
    """Look for a part of the body in free text, nearest to the image first."""
    for keyword, text in _descriptions(header):
        chest, others = vocabulary.CHEST.found_in(text or ""), vocabulary.OTHER_BODY_PARTS.found_in(text or "")
        if chest - others or others:
            # A text that names both ("chest, pelvis") is about a study, not about this image.
            return Finding(bool(chest), "description_not_chest", keyword, " ".join(sorted(chest or others)))
    return None


def _read_other_parts(header: ImageHeader) -> Finding | None:
    """Look for another part of the body in the series' own texts, to be held against what is coded."""
    for keyword, text in _descriptions(header)[:2]:
        others = vocabulary.OTHER_BODY_PARTS.found_in(text or "") - vocabulary.AMBIGUOUS_PARTS
        if others and not vocabulary.CHEST.found_in(text or ""):
            return Finding(False, "description_not_chest", keyword, " ".join(sorted(others)))
    return None


def _descriptions(header: ImageHeader) -> tuple[tuple[str, str | None], ...]:
    return (
        ("SeriesDescription", header.series_description),
        ("ProtocolName", header.protocol_name),
        ("StudyDescription", header.study_description),
    )


def _read_view_codes(header: ImageHeader) -> Finding | None:
    """Look the codes up; a site's own code says what its meaning says."""
    frontal = [vocabulary.meaning_of(code, vocabulary.FRONTAL_VIEW_CODES) for code in header.view_codes]
    others = [vocabulary.meaning_of(code, vocabulary.OTHER_VIEW_CODES) for code in header.view_codes]
    own = [
        code.meaning for code, *known in zip(header.view_codes, frontal, others, strict=True) if known == [None, None]
    ]
    others += [term for meaning in own for term in sorted(vocabulary.LATERAL.found_in(meaning))]
    frontal += [term for meaning in own for term in sorted(vocabulary.FRONTAL.found_in(meaning))]
    named = [meaning for meaning in (*others, *frontal) if meaning is not None]
    if not named:
        return None
    is_frontal = not any(others)
    reason = "view_code_frontal" if is_frontal else "view_code_not_frontal"
    return Finding(is_frontal, reason, "ViewCodeSequence", ", ".join(dict.fromkeys(named)))


def _read_view_position(header: ImageHeader) -> Finding | None:
    text = header.view_position or ""
    words = vocabulary.words_of(text)
    others = (words & vocabulary.OTHER_POSITIONS) | vocabulary.LATERAL.found_in(text)
    frontal = vocabulary.FRONTAL.found_in(text)
    value = " ".join(sorted(others | frontal))
    if others:
        return Finding(False, "view_position_not_frontal", "ViewPosition", value)
    return Finding(True, "view_position_frontal", "ViewPosition", value) if frontal else None


def _read_orientation(header: ImageHeader) -> Finding | None:
    """Read the anatomical directions of rows and columns.

    Frontal is left or right one way and head or foot the other. Any part of anterior or posterior
    makes the plane sagittal, transverse or oblique.
    """
    directions = header.patient_orientation
    if len(directions) != 2 or not all(_DIRECTION.fullmatch(direction) for direction in directions):
        return None
    keyword, value = "PatientOrientation", "\\".join(directions)
    if set("AP") & set("".join(directions)):
        return Finding(False, "patient_orientation_not_frontal", keyword, value)
    first = {direction[0] for direction in directions}
    if first & set("LR") and first & set("HF"):
        return Finding(True, "patient_orientation_frontal", keyword, value)
    return None


def _read_view_words(header: ImageHeader) -> Finding | None:
    """Look for a lateral in the texts; they can speak against an image, never for it."""
    texts = (
        *_descriptions(header)[:2],
        ("AcquisitionDeviceProcessingDescription", header.processing_description),  # the menu that was chosen
        ("BodyPartExamined", header.body_part_examined),
    )
    for keyword, text in texts:
        lateral = vocabulary.LATERAL.found_in(text or "")
        if lateral and not vocabulary.FRONTAL.found_in(text or ""):
            return Finding(False, "description_not_frontal", keyword, " ".join(sorted(lateral)))
    return None
