"""Join test results and images by UID, accession number, or patient and date.

Each image gets the result of the nearest test; each test then keeps the image nearest to it. Images
and results without a match are returned with a reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from training.adapters.reading.dicom_files import DicomImage

_NAMED = -1  # days: a result that names the image itself is nearer than any other


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of a table of results: a label, and keys of its image."""

    line: int
    label: str
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    accession_number: str = ""
    patient_id: str = ""
    tested_on: date | None = None
    site: str = ""


@dataclass(frozen=True, slots=True)
class JoinResult:
    """Outcome of a join; keys are positions of images and lines of results."""

    results: Mapping[int, Result]  # of the images that have one
    contradicted: frozenset[int]  # images with another, different result of their patient within the days
    unmatched_images: Mapping[int, str]  # the other images, with the reason
    unmatched_lines: Mapping[int, str]  # results without an image, with the reason


@dataclass(slots=True)
class _Candidates:
    """Candidate results of every image, with their distance in days."""

    of_image: dict[int, list[tuple[int, Result]]] = field(default_factory=lambda: defaultdict(list))
    reasons: dict[int, str] = field(default_factory=dict)  # lines without any image


def join(
    images: Sequence[DicomImage], results: Sequence[Result], *, days: int, every_image: bool = False
) -> JoinResult:
    """Match images and results.

    Parameters
    ----------
    images
        Frontal chest radiographs.
    results
        Test results, matched by the first key that a line has: SOP Instance UID, Study Instance UID,
        accession number, or patient ID with a date.
    days
        Largest distance of test and image, where both dates are known and the line has no UID.
    every_image
        Label every image within the days, not only the nearest of each test.
    """
    candidates = _candidates(images, results, days)
    matches: dict[int, tuple[int, Result]] = {}
    unmatched_images: dict[int, str] = {}
    disputed: set[int] = set()
    for position, distances in candidates.of_image.items():
        nearest = min(distance for distance, _ in distances)
        best = [result for distance, result in distances if distance == nearest]
        if len({result.label for result in best}) > 1:
            unmatched_images[position] = "label_contradictory"
            disputed.update(result.line for result in best)
        else:
            matches[position] = (nearest, best[0])
    labelled = matches if every_image else _nearest_image(matches, images)
    unmatched_images |= {position: "nearer_image" for position in matches if position not in labelled}
    unmatched_images |= {position: "no_test" for position in range(len(images)) if position not in candidates.of_image}
    used = {result.line for _, result in labelled.values()}
    unmatched_lines = dict(candidates.reasons)
    for result in results:
        if result.line not in used and result.line not in unmatched_lines:
            unmatched_lines[result.line] = "label_contradictory" if result.line in disputed else "nearer_test"
    contradicted = frozenset(
        position
        for position, (_, match) in labelled.items()
        if any(result.label != match.label for _, result in candidates.of_image[position])
    )
    return JoinResult(
        {position: result for position, (_, result) in sorted(labelled.items())},
        contradicted,
        unmatched_images,
        unmatched_lines,
    )


def _candidates(images: Sequence[DicomImage], results: Sequence[Result], days: int) -> _Candidates:
    keys = _Keys(images)
    candidates = _Candidates()
    for result in results:
        positions = keys.images_of(result)
        if positions is None:
            candidates.reasons[result.line] = "no_join_key"
        elif not positions:
            candidates.reasons[result.line] = "no_image"
        else:
            near = [(_days_between(images[at], result), at) for at in positions]
            within = [(distance, at) for distance, at in near if distance is not None and distance <= days]
            for distance, at in within:
                candidates.of_image[at].append((distance, result))
            if not within:
                candidates.reasons[result.line] = "outside_window"
    return candidates


class _Keys:
    """Positions of the images, by each key that a line may have."""

    def __init__(self, images: Sequence[DicomImage]) -> None:
        self._by: dict[str, dict[str | None, list[int]]] = {}
        for key in ("sop_instance_uid", "study_instance_uid", "accession_number", "patient_id"):
            positions: dict[str | None, list[int]] = defaultdict(list)
            for position, image in enumerate(images):
                positions[getattr(image.header, key)].append(position)
            self._by[key] = positions

    def images_of(self, result: Result) -> list[int] | None:
        """Return the positions of a line's images; None if the line has no key."""
        for key in ("sop_instance_uid", "study_instance_uid", "accession_number"):
            if value := getattr(result, key):
                return self._by[key].get(value, [])
        if result.patient_id and result.tested_on is not None:
            return self._by["patient_id"].get(result.patient_id, [])
        return None


def _days_between(image: DicomImage, result: Result) -> int | None:
    """Return the days between image and test; None if a date is missing and required."""
    if result.sop_instance_uid or result.study_instance_uid:
        return _NAMED
    if image.acquired_on is None or result.tested_on is None:
        return 0 if result.accession_number else None
    return abs((image.acquired_on - result.tested_on).days)


def _nearest_image(
    matches: Mapping[int, tuple[int, Result]], images: Sequence[DicomImage]
) -> dict[int, tuple[int, Result]]:
    """Return for every test matched by patient and date its nearest image, and for other tests all their images."""
    by_line: dict[int, list[tuple[int, str, int]]] = defaultdict(list)
    for position, (distance, result) in matches.items():
        by_line[result.line].append((distance, str(images[position].path), position))
    nearest = {}
    for candidates in by_line.values():
        result = matches[candidates[0][2]][1]
        is_by_patient = not (result.sop_instance_uid or result.study_instance_uid or result.accession_number)
        for _, _, position in sorted(candidates)[: 1 if is_by_patient else None]:
            nearest[position] = matches[position]
    return nearest
