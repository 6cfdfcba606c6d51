"""Result of an adapter: cases, rejections with reasons, and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pandas as pd

from cxr.errors import ManifestError
from cxr.view import REASONS as VIEW_REASONS
from training.adapters.reading.boxes import BOX_COLUMNS
from training.cases import complete

ReportProgress = Callable[[str, int, int], None]
"""Progress callback of a long step: its name, how many are done, of how many."""

REASONS: Mapping[str, str] = MappingProxyType(
    {
        # The table
        "fields": "The line has fewer or more fields than the header line.",
        "no_path": "The line names no image, or the name is not of the data set's form.",
        "no_file": "The image that the line names is not there.",
        "several_files": "Several folders have an image of the name that the line gives.",
        "no_patient": "The line names no patient.",
        "duplicate": "The image was in an earlier line, or an earlier file has the same SOP Instance UID.",
        "bad_date": "The date is not one, or is ambiguous; name its form with --date-format.",
        "bad_finding": "A finding is not 1, 0, -1 or nothing.",
        "bad_box": "A bounding box is not four numbers, or has no area.",
        "bad_view": "The projection is neither frontal nor lateral.",
        "filtered": "The line does not fulfil the conditions of --where.",
        # The label
        "label_missing": "There is no label for the image.",
        "label_unknown": "The label, or the test's result, is unknown: map it, or leave the image out.",
        "label_ambiguous": "Neither No Finding nor a positive finding other than support devices.",
        "label_contradictory": "The labels of the image contradict each other.",
        "excluded": "The data set itself marks the image as one to leave out.",
        "other_part": "The image is of another part of the data set than the one that was asked for (--part).",
        # The image
        "lateral": "A lateral view; only frontal images are accepted (--laterals accepts them).",
        "not_radiograph": "CT, or another kind of image than a radiograph of the chest.",
        "not_dicom": "The file is not a DICOM object that can be read.",
        "secondary_capture": "A secondary capture: a screenshot or a processed copy, not the original.",
        "processed_copy": "A processed copy (bone suppression, enhancement, markers of another program).",
        "monochrome1": "The picture is stored inverted; --converted makes DICOM files that are marked MONOCHROME1.",
        "not_image": "The file is not an image that can be read.",
        "not_listed": "The file is in the folder, and no table names it.",
        "damaged": "The file can't be read, or is not of the form that it must have.",
        # The join of test results and images
        "no_image": "No frontal chest radiograph in this folder belongs to the line.",
        "outside_window": "The patient has images, but none within the days that are accepted.",
        "nearer_test": "Another test is nearer to every image that this one could label.",
        "nearer_image": "Another image of the patient is nearer to the test (--every-image takes all).",
        "no_test": "No test result belongs to this image.",
        "no_join_key": "The line names neither SOP Instance UID nor accession number, nor a patient and a date.",
        "not_yet_scored": "The service has not scored the image, nor has a person released it.",
        "not_latest": "The audit export holds a newer image under the same SOP Instance UID.",
        # The merge
        "other_collection": "An earlier manifest of the merge has the film.",
        # The polygons
        "no_lungs": "No polygon of a lung.",
        "size_differs": "The annotation is for a picture of another size.",
        **VIEW_REASONS,
    }
)
"""Every reason of a rejection, with its meaning."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """One line of a table, or one file, that is not in the manifest."""

    source_file: str  # relative to the data set's folder
    line: int  # counted from 1; 0: the whole file
    reason: str  # a key of REASONS


@dataclass(frozen=True, slots=True)
class IndexResult:
    """Outcome of an adapter: each line and file of the data set is a case or a rejection."""

    cases: pd.DataFrame  # a manifest; paths absolute
    rejected: tuple[Rejection, ...] = ()
    notes: tuple[str, ...] = ()  # sentences for people
    boxes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(BOX_COLUMNS)))  # of cases

    def count_rejected(self) -> dict[str, int]:
        """Return the number of rejections by reason, the most frequent first."""
        return dict(Counter(rejection.reason for rejection in self.rejected).most_common())


def ignore_progress(_step: str, _done: int, _total: int) -> None:
    """Ignore the progress of a step."""


def index_result(
    rows: Iterable[Mapping[str, Any]] | pd.DataFrame,
    rejected: Iterable[Rejection],
    notes: Iterable[str] = (),
    *,
    boxes: Iterable[Mapping[str, Any]] = (),
) -> IndexResult:
    """Return an adapter's outcome.

    Parameters
    ----------
    rows
        Cases, as a table or as one mapping of manifest columns for each.
    rejected
        Lines and files that are no case.
    notes
        Sentences for people.
    boxes
        Bounding boxes, with ``BOX_COLUMNS``; those of other images than the cases are left out.

    Raises
    ------
    ManifestError
        If there is no case, or a value is not accepted in a manifest.
    """
    rejections = tuple(rejected)
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    if table.empty:
        counts = Counter(rejection.reason for rejection in rejections).most_common(3)
        why = "; ".join(f"{count}: {REASONS[reason]}" for reason, count in counts) or "the folder has no image."
        said = "".join(f" {note}" for note in notes)
        raise ManifestError(f"No image of this folder can be used ({why}){said} See docs/manifests.md for its layout.")
    cases = complete(table)
    drawn = pd.DataFrame(list(boxes), columns=list(BOX_COLUMNS))
    drawn = drawn[drawn["image_id"].isin(cases["image_id"])].reset_index(drop=True)
    return IndexResult(cases=cases, rejected=rejections, notes=tuple(notes), boxes=drawn)


def first_reason(index: pd.Index, checks: Iterable[tuple[pd.Series, str | pd.Series]]) -> pd.Series:
    """Return for each row the reason, or the value of the column of reasons, of the first check that is true of it.

    Empty where none is.
    """
    reason = pd.Series("", index=index)
    for is_wrong, why in checks:
        reason = reason.mask((reason == "") & is_wrong, why)
    return reason


def reject_lines(name: str, lines: pd.Series, reason: pd.Series) -> list[Rejection]:
    """Return the rejections of the lines of a table that have a reason."""
    return [Rejection(name, int(line), why) for line, why in zip(lines, reason, strict=True) if why]


def parse_pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """Read options of the form ``OURS=THEIRS``.

    Raises
    ------
    ManifestError
        If one has no equals sign.
    """
    parts = [text.partition("=") for text in texts]
    if wrong := [first for first, sign, _ in parts if not sign]:
        raise ManifestError(f"{option} got {wrong[0]!r}; accepted is NAME=VALUE, once for each.")
    return {first.strip(): second.strip() for first, _, second in parts}
