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

from cxr import terms
from cxr.domain import ImageHeader

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

    Coded attributes first; descriptions count only where there are none (an absent body part is
    unknown, not a rejection).
    """
    coded = [finding for finding in (_read_region(header), _read_body_part(header)) if finding is not None]
    return coded or [finding for finding in (_read_descriptions(header),) if finding is not None]


def read_view(header: ImageHeader) -> list[Finding]:
    """Read everything that tells the projection, most trusted first."""
    readings = (_read_view_codes, _read_view_position, _read_orientation, _read_view_words)
    return [finding for finding in (read(header) for read in readings) if finding is not None]


def _read_region(header: ImageHeader) -> Finding | None:
    if header.anatomic_region is None:
        return None
    meaning = terms.meaning_of(header.anatomic_region, terms.CHEST_REGION_CODES)
    return Finding(
        meaning is not None, "anatomic_region_not_chest", "AnatomicRegionSequence", meaning or "another region"
    )


def _read_body_part(header: ImageHeader) -> Finding | None:
    words = terms.words_of(header.body_part_examined or "")
    others, chest = words & terms.OTHER_BODY_PARTS, words & terms.CHEST_WORDS
    keyword = "BodyPartExamined"
    if others:
        return Finding(False, "body_part_not_chest", keyword, " ".join(sorted(others | chest)))
    if chest:
        return Finding(True, "", keyword, " ".join(sorted(chest)))
    if not words or words <= terms.NO_BODY_PART:
        return None
    return Finding(False, "body_part_not_listed", keyword, "not listed")


def _read_descriptions(header: ImageHeader) -> Finding | None:
    """Look for a part of the body in free text, nearest to the image first."""
    for keyword, text in _descriptions(header):
        words = terms.words_of(text or "")
        chest, others = words & terms.CHEST_WORDS, words & terms.OTHER_BODY_PARTS
        if chest or others:
            # A text that names both ("chest, pelvis") is about a study, not about this image.
            return Finding(bool(chest), "description_not_chest", keyword, " ".join(sorted(chest or others)))
    return None


def _descriptions(header: ImageHeader) -> tuple[tuple[str, str | None], ...]:
    return (
        ("SeriesDescription", header.series_description),
        ("ProtocolName", header.protocol_name),
        ("StudyDescription", header.study_description),
    )


def _read_view_codes(header: ImageHeader) -> Finding | None:
    frontal = [terms.meaning_of(code, terms.FRONTAL_VIEW_CODES) for code in header.view_codes]
    others = [terms.meaning_of(code, terms.OTHER_VIEW_CODES) for code in header.view_codes]
    named = [meaning for meaning in (*others, *frontal) if meaning is not None]
    if not named:
        return None
    is_frontal = not any(others)
    reason = "view_code_frontal" if is_frontal else "view_code_not_frontal"
    return Finding(is_frontal, reason, "ViewCodeSequence", ", ".join(dict.fromkeys(named)))


def _read_view_position(header: ImageHeader) -> Finding | None:
    words = terms.words_of(header.view_position or "")
    others, frontal = words & terms.OTHER_POSITIONS, words & terms.FRONTAL_POSITIONS
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
    """Look for a lateral in the series' own texts; they can speak against an image, never for it."""
    for keyword, text in _descriptions(header)[:2]:
        words = terms.words_of(text or "")
        lateral = words & terms.LATERAL_WORDS
        if lateral and not words & terms.FRONTAL_WORDS:
            return Finding(False, "description_not_frontal", keyword, " ".join(sorted(lateral)))
    return None
