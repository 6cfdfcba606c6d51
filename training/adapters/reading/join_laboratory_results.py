"""Join test results and images: who was imaged when, and what did the test say.

Each image takes the result of the nearest test; each test then keeps the image that is nearest to
it. What does not join is named, on both sides.
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
    """One line of a table of results: what it says, and of which image."""

    line: int
    label: str
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    accession_number: str = ""
    patient_id: str = ""
    tested_on: date | None = None
    site: str = ""


@dataclass(frozen=True, slots=True)
class Joined:
    """The outcome of a join; positions are those of the images, lines those of the results."""

    results: Mapping[int, Result]  # of the images that have one
    otherwise: frozenset[int]  # images of whose patient another test within the days says otherwise
    images_left: Mapping[int, str]  # the other images, with the reason
    lines_left: Mapping[int, str]  # results without an image, with the reason


@dataclass(slots=True)
class _Candidates:
    """For every image, the results that could be its own, with their distance in days."""

    of_image: dict[int, list[tuple[int, Result]]] = field(default_factory=lambda: defaultdict(list))
    reasons: dict[int, str] = field(default_factory=dict)  # lines that have no image at all


def join(images: Sequence[DicomImage], results: Sequence[Result], *, days: int, every_image: bool = False) -> Joined:
    """Find each image's result.

    Parameters
    ----------
    images
        Frontal chest radiographs.
    results
        Test results. The first key that a line has decides: SOP Instance UID, Study Instance UID,
        accession number, or patient ID with a date.
    days
        Between test and image at most, where both dates are known and no UID was named.
    every_image
        Label every image within the days, instead of the nearest for each test.
    """
    found = _candidates(images, results, days)
    winners: dict[int, tuple[int, Result]] = {}
    images_left: dict[int, str] = {}
    disputed: set[int] = set()
    for position, candidates in found.of_image.items():
        nearest = min(distance for distance, _ in candidates)
        best = [result for distance, result in candidates if distance == nearest]
        if len({result.label for result in best}) > 1:
            images_left[position] = "label_contradictory"
            disputed.update(result.line for result in best)
        else:
            winners[position] = (nearest, best[0])
    kept = winners if every_image else _nearest_image(winners, images)
    images_left |= {position: "nearer_image" for position in winners if position not in kept}
    images_left |= {position: "no_test" for position in range(len(images)) if position not in found.of_image}
    used = {result.line for _, result in kept.values()}
    lines_left = dict(found.reasons)
    for result in results:
        if result.line not in used and result.line not in lines_left:
            lines_left[result.line] = "label_contradictory" if result.line in disputed else "nearer_test"
    otherwise = frozenset(
        position
        for position, (_, winner) in kept.items()
        if any(result.label != winner.label for _, result in found.of_image[position])
    )
    return Joined(
        {position: result for position, (_, result) in sorted(kept.items())}, otherwise, images_left, lines_left
    )


def _candidates(images: Sequence[DicomImage], results: Sequence[Result], days: int) -> _Candidates:
    keys = _Keys(images)
    found = _Candidates()
    for result in results:
        positions = keys.images_of(result)
        if positions is None:
            found.reasons[result.line] = "no_join_key"
        elif not positions:
            found.reasons[result.line] = "no_image"
        else:
            near = [(_days_between(images[at], result), at) for at in positions]
            within = [(distance, at) for distance, at in near if distance is not None and distance <= days]
            for distance, at in within:
                found.of_image[at].append((distance, result))
            if not within:
                found.reasons[result.line] = "outside_window"
    return found


class _Keys:
    """Positions of the images by each of the keys that a line may have."""

    def __init__(self, images: Sequence[DicomImage]) -> None:
        self._by: dict[str, dict[str | None, list[int]]] = {}
        for key in ("sop_instance_uid", "study_instance_uid", "accession_number", "patient_id"):
            positions: dict[str | None, list[int]] = defaultdict(list)
            for position, image in enumerate(images):
                positions[getattr(image.header, key)].append(position)
            self._by[key] = positions

    def images_of(self, result: Result) -> list[int] | None:
        """Images that a line means; None if it has no key."""
        for key in ("sop_instance_uid", "study_instance_uid", "accession_number"):
            if value := getattr(result, key):
                return self._by[key].get(value, [])
        if result.patient_id and result.tested_on is not None:
            return self._by["patient_id"].get(result.patient_id, [])
        return None


def _days_between(image: DicomImage, result: Result) -> int | None:
    """Days between image and test; None where they must be known and are not."""
    if result.sop_instance_uid or result.study_instance_uid:
        return _NAMED
    if image.acquired_on is None or result.tested_on is None:
        return 0 if result.accession_number else None
    return abs((image.acquired_on - result.tested_on).days)


def _nearest_image(
    winners: Mapping[int, tuple[int, Result]], images: Sequence[DicomImage]
) -> dict[int, tuple[int, Result]]:
    """For every test that goes by patient and date, the nearest of the images it has; others keep all."""
    by_line: dict[int, list[tuple[int, str, int]]] = defaultdict(list)
    for position, (distance, result) in winners.items():
        by_line[result.line].append((distance, str(images[position].path), position))
    kept = {}
    for candidates in by_line.values():
        result = winners[candidates[0][2]][1]
        is_by_patient = not (result.sop_instance_uid or result.study_instance_uid or result.accession_number)
        for _, _, position in sorted(candidates)[: 1 if is_by_patient else None]:
            kept[position] = winners[position]
    return kept
