"""What an adapter returns: the cases, what it left out and why, and what people should know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pandas as pd

from cxr.errors import ManifestError
from cxr.view import REASONS as VIEW_REASONS
from training.cases import complete

ReportProgress = Callable[[str, int, int], None]
"""Told how far a long step is: what is done, how many are done, of how many."""

REASONS: Mapping[str, str] = MappingProxyType(
    {
        # The table
        "fields": "The line has fewer or more fields than the header line.",
        "no_path": "The line names no image, or the name is not of the data set's form.",
        "no_file": "The image that the line names is not there.",
        "no_patient": "The line names no patient.",
        "duplicate": "The image was in an earlier line, or an earlier file has the same SOP Instance UID.",
        "bad_age": "The age is neither a number of years up to 120 nor a DICOM age.",
        "bad_date": "The date is not one, or could be read in two ways; --date-format says how.",
        "bad_finding": "A finding is not 1, 0, -1 or nothing.",
        "bad_view": "The projection is neither frontal nor lateral.",
        "filtered": "The line does not fulfil the conditions of --where.",
        # The label
        "label_missing": "There is no label for the image.",
        "label_unknown": "The label, or the test's result, is none that we know; map it, or leave the image out.",
        "label_ambiguous": "Neither No Finding nor a positive finding other than support devices.",
        "label_contradictory": "The labels of the image contradict each other.",
        # The image
        "lateral": "A lateral view; only frontal images are taken (--laterals takes them).",
        "not_radiograph": "CT, or another kind of image than a radiograph of the chest.",
        "not_dicom": "The file is not a DICOM object that can be read.",
        "secondary_capture": "A secondary capture: a screenshot or a processed copy, not the original.",
        "processed_copy": "A processed copy (bone suppression, enhancement, markers of another program).",
        "monochrome1": "The picture is stored inverted; --converted makes DICOM files that say so.",
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
        "not_latest": "The audit export holds a newer image under the same SOP Instance UID.",
        # The polygons
        "no_lungs": "No polygon of a lung.",
        "size_differs": "The annotation is for a picture of another size.",
        **VIEW_REASONS,
    }
)
"""Every reason why a line or file is not in the manifest, with what it means."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """One line of a table, or one file, that is not in the manifest."""

    source_file: str  # relative to the data set's folder
    line: int  # counted from 1; 0: the whole file
    reason: str  # a key of REASONS


@dataclass(frozen=True, slots=True)
class Indexed:
    """The outcome of an adapter: what it took and what it left out add up to what is there."""

    cases: pd.DataFrame  # a manifest; paths absolute
    rejected: tuple[Rejection, ...] = ()
    notes: tuple[str, ...] = ()  # sentences for people

    def count_rejected(self) -> dict[str, int]:
        """Rejections by reason, the most frequent first."""
        return dict(Counter(rejection.reason for rejection in self.rejected).most_common())


def silent(_step: str, _done: int, _total: int) -> None:
    """ReportProgress nothing."""


def indexed(
    rows: Iterable[Mapping[str, Any]] | pd.DataFrame, rejected: Iterable[Rejection], notes: Iterable[str] = ()
) -> Indexed:
    """Make an adapter's outcome.

    Parameters
    ----------
    rows
        Cases, as a table or as one mapping of manifest columns for each.
    rejected
        What was left out.
    notes
        What people should know.

    Raises
    ------
    ManifestError
        If there is not one case, or a value is not a manifest's.
    """
    left_out = tuple(rejected)
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    if table.empty:
        counts = Counter(rejection.reason for rejection in left_out).most_common(3)
        why = "; ".join(f"{count}: {REASONS[reason]}" for reason, count in counts) or "nothing was found there."
        raise ManifestError(f"Not one image of this folder can be used ({why}) See docs/manifests.md for its layout.")
    return Indexed(cases=complete(table), rejected=left_out, notes=tuple(notes))


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
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
