"""A hospital's own images: a folder of DICOM files and a CSV of test results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from cxr.labels import FINDINGS
from training.adapters.reading.dataset_folder import dataset_folder
from training.adapters.reading.dicom_files import DicomImage, reject_image, scan
from training.adapters.reading.join_laboratory_results import JoinResult, join
from training.adapters.reading.laboratory_results import read_results, result_words
from training.adapters.reading.result import (
    IndexResult,
    Rejection,
    ReportProgress,
    ignore_progress,
    index_result,
    parse_pairs,
)
from training.adapters.reading.tables import find_table
from training.cases import LABEL_PREFIX

NEGATIVE = "negative"
# The text is a value of the manifest's column ``note``.
CONTRADICTION = "another test of the patient within the days says otherwise"


def index(
    root: Path,
    *,
    results: Annotated[str, "The CSV of test results; default: the only one in the folder."] = "",
    column: Annotated[
        tuple[str, ...], "A column of a table of results and the CSV's name of it, e.g. tested_at=Abnahme."
    ] = (),
    word: Annotated[tuple[str, ...], "A class and a laboratory's word for it, e.g. covid19=nachgewiesen."] = (),
    positive: Annotated[str, "Class of positive tests."] = "covid19",
    negative: Annotated[str, "Class of negative tests."] = NEGATIVE,
    days: Annotated[int, "Largest distance of test and image."] = 2,
    every_image: Annotated[bool, "Take every image within the days, not only the nearest for each test."] = False,
    date_format: Annotated[str, "Form of dates, e.g. %d/%m/%Y; default: ISO 8601 or YYYYMMDD."] = "",
    unknown_views: Annotated[bool, "Take images without a projection in their header."] = False,
    site: Annotated[str, "Site of all images; default: the CSV's column, else Institution Name."] = "",
    source: Annotated[str, "Name of the data set."] = "institutional",
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index a folder of DICOM files by a table of test results.

    Parameters
    ----------
    root
        The folder; all files below it are read.
    results, column, word, positive, negative, days, every_image, date_format, unknown_views, site, source
        See their help.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is the class of the test; ``label_<positive>`` is 1 or 0. Results without an image and
        images without a result are rejections.

    Raises
    ------
    ManifestError
        If the table can't be used, or no image has a result.
    """
    base = dataset_folder(root)
    table = find_table(base, results, option="--results")
    rejected: list[Rejection] = []
    words = result_words(positive, negative, parse_pairs(word, "--word"))
    unknown: list[str] = []
    tests = read_results(
        table, rejected, column=parse_pairs(column, "--column"), words=words, date_format=date_format, notes=unknown
    )
    images = scan(base, rejected, watch=watch, besides=(table,), unknown_views=unknown_views)
    joined = join(images, tests, days=days, every_image=every_image)
    rejected += unmatched(joined, images, base, table.name)
    rows = list(labelled_rows(joined, images, source=source, positive=positive, site=site))
    notes = [f"{len(joined.results)} of {len(images)} images have a result within {days} days."]
    if joined.contradicted:
        notes.append(f"For {len(joined.contradicted)} images, {CONTRADICTION}; the nearest one counts.")
    return index_result(rows, rejected, [*notes, *unknown])


def unmatched(joined: JoinResult, images: Sequence[DicomImage], base: Path, table: str) -> Iterator[Rejection]:
    """Return rejections of results without an image and of images without a result."""
    for line, reason in sorted(joined.unmatched_lines.items()):
        yield Rejection(table, line, reason)
    for position, reason in sorted(joined.unmatched_images.items()):
        yield reject_image(images[position], base, reason)


def labelled_rows(
    joined: JoinResult, images: Sequence[DicomImage], *, source: str, positive: str, site: str
) -> Iterator[dict[str, Any]]:
    """Return rows of a manifest for the images that have a result."""
    for position, result in joined.results.items():
        image = images[position]
        patient_id = image.header.patient_id or result.patient_id
        more: dict[str, Any] = {
            "label": result.label,
            "patient_id": patient_id,
            "image_wise": "" if patient_id else "yes",
            "site": site or result.site or image.institution,
            "note": CONTRADICTION if position in joined.contradicted else "",
        }
        if positive in FINDINGS:
            more[LABEL_PREFIX + positive] = float(result.label == positive)
        yield image.row(image_id=f"{source}:{image.header.sop_instance_uid}", source=source, **more)
