"""A hospital's own images: a folder of DICOM files and a CSV of test results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from cxr.labels import FINDINGS
from training.adapters.reading.dataset_folder import folder
from training.adapters.reading.dicom_files import DicomImage, reject_image, scan
from training.adapters.reading.join_laboratory_results import Joined, join
from training.adapters.reading.laboratory_results import read_results, words_for
from training.adapters.reading.result import Indexed, Rejection, ReportProgress, indexed, pairs, silent
from training.adapters.reading.tables import the_table
from training.cases import LABEL_PREFIX

NEGATIVE = "negative"
OTHERWISE = "another test of the patient within the days says otherwise"


def index(
    root: Path,
    *,
    results: Annotated[str, "The CSV of test results; default: the only one in the folder."] = "",
    column: Annotated[tuple[str, ...], "Our name of a column and the CSV's, e.g. tested_at=Abnahme."] = (),
    word: Annotated[tuple[str, ...], "A class and a laboratory's word for it, e.g. covid19=nachgewiesen."] = (),
    positive: Annotated[str, "Class of positive tests."] = "covid19",
    negative: Annotated[str, "Class of negative tests."] = NEGATIVE,
    days: Annotated[int, "Between test and image at most."] = 2,
    every_image: Annotated[bool, "Take every image within the days, not only the nearest for each test."] = False,
    date_format: Annotated[str, "Form of dates, e.g. %d/%m/%Y; default: ISO 8601 or YYYYMMDD."] = "",
    unknown_views: Annotated[bool, "Take images whose header does not tell the projection."] = False,
    site: Annotated[str, "Site of all images; default: the CSV's column, else Institution Name."] = "",
    source: Annotated[str, "Name of the data set."] = "institutional",
    watch: ReportProgress = silent,
) -> Indexed:
    """Index a folder of DICOM files by a table of test results.

    Parameters
    ----------
    root
        The folder; all files below it are looked at.
    results, column, word, positive, negative, days, every_image, date_format, unknown_views, site, source
        See their help.
    watch
        Told how far it is.

    Returns
    -------
    Indexed
        ``label`` is the class of the test; ``label_<positive>`` 1 or 0. Rejected are also results
        without an image and images without a result.

    Raises
    ------
    ManifestError
        If the table can't be used, or nothing joins.
    """
    base = folder(root)
    table = the_table(base, results, option="--results")
    rejected: list[Rejection] = []
    words = words_for(positive, negative, pairs(word, "--word"))
    tests = read_results(table, rejected, column=pairs(column, "--column"), words=words, date_format=date_format)
    images = scan(base, rejected, watch=watch, besides=(table,), unknown_views=unknown_views)
    joined = join(images, tests, days=days, every_image=every_image)
    rejected += left_over(joined, images, base, table.name)
    rows = list(labelled_rows(joined, images, source=source, positive=positive, site=site))
    notes = [f"{len(joined.results)} of {len(images)} images have a result within {days} days."]
    if joined.otherwise:
        notes.append(f"For {len(joined.otherwise)} images, {OTHERWISE}; the nearest one counts.")
    return indexed(rows, rejected, notes)


def left_over(joined: Joined, images: Sequence[DicomImage], base: Path, table: str) -> Iterator[Rejection]:
    """Name the results without an image and the images without a result."""
    for line, reason in sorted(joined.lines_left.items()):
        yield Rejection(table, line, reason)
    for position, reason in sorted(joined.images_left.items()):
        yield reject_image(images[position], base, reason)


def labelled_rows(
    joined: Joined, images: Sequence[DicomImage], *, source: str, positive: str, site: str
) -> Iterator[dict[str, Any]]:
    """Lines of a manifest for the images that have a result."""
    for position, result in joined.results.items():
        image = images[position]
        patient_id = image.header.patient_id or result.patient_id
        more: dict[str, Any] = {
            "label": result.label,
            "patient_id": patient_id,
            "image_wise": "" if patient_id else "yes",
            "site": site or result.site or image.institution,
            "note": OTHERWISE if position in joined.otherwise else "",
        }
        if positive in FINDINGS:
            more[LABEL_PREFIX + positive] = float(result.label == positive)
        yield image.row(image_id=f"{source}:{image.header.sop_instance_uid}", source=source, **more)
