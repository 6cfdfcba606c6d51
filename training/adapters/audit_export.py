"""Images that the service received: `cxr audit export`, a CSV of labels, and the DICOM files.

The export lists the images with their view decisions; labels come from people or a laboratory; the
files are copies of the archive's or the spool's, matched by SOP Instance UID.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Annotated

import pandas as pd

from cxr.view.decide import NEVER_ASSUMED, PIXEL_REASONS
from training.adapters.institutional import NEGATIVE, labelled_rows, unmatched
from training.adapters.reading.dataset_folder import dataset_folder
from training.adapters.reading.dicom_files import DicomImage, reject_image, scan
from training.adapters.reading.join_laboratory_results import join
from training.adapters.reading.laboratory_results import read_results, result_words
from training.adapters.reading.result import (
    IndexResult,
    Rejection,
    ReportProgress,
    ignore_progress,
    index_result,
    parse_pairs,
)
from training.adapters.reading.tables import LINE, find_table, read_table

_COLUMNS = ("image_id", "sop_instance_uid", "state", "view", "reason", "is_latest")
_WAITING = frozenset({"queued", "scoring", "failed"})
# An image with one of these reasons was held; where it is so no more, a person has released it.
_HELD_REASONS = frozenset(PIXEL_REASONS) | NEVER_ASSUMED


def index(
    root: Path,
    *,
    labels: Annotated[str, "The CSV of labels, in the folder: a UID or accession number, and a label."] = "labels.csv",
    export: Annotated[str, "The CSV of `cxr audit export --identifiers uids`, in the folder."] = "export.csv",
    column: Annotated[
        tuple[str, ...], "A column of a table of results and the CSV's name of it, e.g. result=diagnosis."
    ] = (),
    word: Annotated[tuple[str, ...], "A class and the CSV's word for it, e.g. covid19=nachgewiesen."] = (),
    positive: Annotated[str, "Class of positive labels."] = "covid19",
    negative: Annotated[str, "Class of negative labels."] = NEGATIVE,
    days: Annotated[int, "Largest distance of label and image, where both have a date and the line no UID."] = 2,
    date_format: Annotated[str, "Form of dates, e.g. %d/%m/%Y; default: ISO 8601 or YYYYMMDD."] = "",
    site: Annotated[str, "Site of all images; default: the CSV's column, else Institution Name."] = "",
    source: Annotated[str, "Name of the data set."] = "institutional",
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index images that the service received.

    Parameters
    ----------
    root
        The folder with both tables; the DICOM files are below it.
    labels, export, column, word, positive, negative, days, date_format, site, source
        See their help.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        Images that the service scored, or that a person released, and that have a label.

    Raises
    ------
    ManifestError
        If a table can't be used, or no image has a label.
    """
    base = dataset_folder(root)
    tables = find_table(base, export, option="--export"), find_table(base, labels, option="--labels")
    rejected: list[Rejection] = []
    exported = read_table(tables[0], rejected, required=_COLUMNS)
    words = result_words(positive, negative, parse_pairs(word, "--word"))
    notes: list[str] = []
    results = read_results(
        tables[1], rejected, column=parse_pairs(column, "--column"), words=words, date_format=date_format, notes=notes
    )
    lines = _exported_lines(exported, tables[0].name, rejected)
    named = {_uid(value) for value in exported["sop_instance_uid"]}
    # An image of unknown view may have been released by a person: the export decides, not the header.
    scanned = scan(base, rejected, watch=watch, besides=tables, unknown_views=True)
    images = list(_exported(scanned, lines, named, base, rejected))
    uids = {image.header.sop_instance_uid for image in scanned}
    rejected += [Rejection(tables[0].name, line, "no_file") for uid, line in lines.items() if uid not in uids]
    joined = join(images, results, days=days, every_image=True)
    rejected += unmatched(joined, images, base, tables[1].name)
    rows = labelled_rows(joined, images, source=source, positive=positive, site=site)
    return index_result(
        rows, rejected, [*notes, f"{len(joined.results)} of {len(lines)} exported images have a file and a label."]
    )


def _exported_lines(exported: pd.DataFrame, name: str, rejected: list[Rejection]) -> dict[str, int]:
    """Return the SOP Instance UIDs of the images that the service scored or a person released, with their first line.

    An image has one line for each finding; only the first is read.
    """
    lines: dict[str, int] = {}
    for row in exported.drop_duplicates("image_id").to_dict("records"):
        reason = _rejection_reason({str(key): str(value) for key, value in row.items()})
        if reason:
            rejected.append(Rejection(name, int(row[LINE]), reason))
        else:
            lines[_uid(row["sop_instance_uid"])] = int(row[LINE])
    return lines


def _uid(value: object) -> str:
    """Return a UID; a spreadsheet's text may have an apostrophe in front (db.results.export)."""
    return str(value).removeprefix("'")


def _rejection_reason(row: Mapping[str, str]) -> str:
    if row["is_latest"].casefold() in ("false", "0"):
        return "not_latest"
    # The column view is the header's; what the pixels say is in state and reason.
    if row["view"] in ("frontal", "unknown"):
        if row["state"] == "reported" or (row["state"] in _WAITING and row["reason"] in _HELD_REASONS):
            return ""
        if row["state"] in _WAITING:
            return "not_yet_scored"
    return row["reason"] or "view_unknown"


def _exported(
    images: list[DicomImage], lines: Mapping[str, int], named: Set[str], base: Path, rejected: list[Rejection]
) -> Iterator[DicomImage]:
    for image in images:
        if image.header.sop_instance_uid in lines:
            yield image
        elif image.header.sop_instance_uid not in named:  # others: the reason is that of their line
            rejected.append(reject_image(image, base, "not_listed"))
