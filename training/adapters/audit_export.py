"""The service's own images: `cxr audit export`, a CSV of labels, and the DICOM files.

The export names what the service took in and how it judged the view; labels come from people or a
laboratory; the files are the archive's or the spool's, found by SOP Instance UID.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import pandas as pd

from training.adapters.institutional import NEGATIVE, labelled_rows, left_over
from training.adapters.reading.dataset_folder import folder
from training.adapters.reading.dicom_files import DicomImage, reject_image, scan
from training.adapters.reading.join_laboratory_results import join
from training.adapters.reading.laboratory_results import read_results, words_for
from training.adapters.reading.result import Indexed, Rejection, ReportProgress, indexed, pairs, silent
from training.adapters.reading.tables import LINE, read_table, the_table

_COLUMNS = ("image_id", "sop_instance_uid", "state", "view", "reason", "is_latest")
_SCORED = frozenset({"queued", "scoring", "reported", "failed"})


def index(
    root: Path,
    *,
    labels: Annotated[str, "The CSV of labels, in the folder: a UID or accession number, and a label."] = "labels.csv",
    export: Annotated[str, "The CSV of `cxr audit export --identifiers uids`, in the folder."] = "export.csv",
    column: Annotated[tuple[str, ...], "Our name of a column and the CSV's, e.g. result=diagnosis."] = (),
    word: Annotated[tuple[str, ...], "A class and the CSV's word for it, e.g. covid19=nachgewiesen."] = (),
    positive: Annotated[str, "Class of positive labels."] = "covid19",
    negative: Annotated[str, "Class of negative labels."] = NEGATIVE,
    days: Annotated[int, "Between label and image at most, where both have a date and no UID is named."] = 2,
    date_format: Annotated[str, "Form of dates, e.g. %d/%m/%Y; default: ISO 8601 or YYYYMMDD."] = "",
    site: Annotated[str, "Site of all images; default: the CSV's column, else Institution Name."] = "",
    source: Annotated[str, "Name of the data set."] = "institutional",
    watch: ReportProgress = silent,
) -> Indexed:
    """Index what the service has received.

    Parameters
    ----------
    root
        The folder with both tables; the DICOM files are below it.
    labels, export, column, word, positive, negative, days, date_format, site, source
        See their help.
    watch
        Told how far it is.

    Returns
    -------
    Indexed
        Images that the service judged frontal, or that a person released, and that have a label.

    Raises
    ------
    ManifestError
        If a table can't be used, or nothing joins.
    """
    base = folder(root)
    tables = the_table(base, export, option="--export"), the_table(base, labels, option="--labels")
    rejected: list[Rejection] = []
    exported = read_table(tables[0], rejected, required=_COLUMNS)
    words = words_for(positive, negative, pairs(word, "--word"))
    results = read_results(tables[1], rejected, column=pairs(column, "--column"), words=words, date_format=date_format)
    wanted = _wanted(exported, tables[0].name, rejected)
    # What the header did not tell, a person may have released: the export's word counts.
    found = scan(base, rejected, watch=watch, besides=tables, unknown_views=True)
    images = list(_exported(found, wanted, base, rejected))
    there = {image.header.sop_instance_uid for image in found}
    rejected += [Rejection(tables[0].name, line, "no_file") for uid, line in wanted.items() if uid not in there]
    joined = join(images, results, days=days, every_image=True)
    rejected += left_over(joined, images, base, tables[1].name)
    rows = labelled_rows(joined, images, source=source, positive=positive, site=site)
    return indexed(rows, rejected, [f"{len(joined.results)} of {len(wanted)} exported images have a file and a label."])


def _wanted(exported: pd.DataFrame, name: str, rejected: list[Rejection]) -> dict[str, int]:
    """SOP Instance UIDs of the images that the service took as frontal, with their first line.

    An image has one line for each finding; only the first is looked at.
    """
    wanted: dict[str, int] = {}
    for row in exported.drop_duplicates("image_id").to_dict("records"):
        reason = _reason_against({str(key): str(value) for key, value in row.items()})
        if reason:
            rejected.append(Rejection(name, int(row[LINE]), reason))
        else:
            # A spreadsheet's text may have an apostrophe in front (db.results.export).
            wanted[str(row["sop_instance_uid"]).removeprefix("'")] = int(row[LINE])
    return wanted


def _reason_against(row: Mapping[str, str]) -> str:
    if row["is_latest"].casefold() in ("false", "0"):
        return "not_latest"
    # The view is the header's word; what the pixels said against it stands in state and reason.
    if row["view"] in ("frontal", "unknown") and row["state"] in _SCORED:
        return ""
    return row["reason"] or "view_unknown"


def _exported(
    found: list[DicomImage], wanted: Mapping[str, int], base: Path, rejected: list[Rejection]
) -> Iterator[DicomImage]:
    for image in found:
        if image.header.sop_instance_uid in wanted:
            yield image
        else:
            rejected.append(reject_image(image, base, "not_listed"))
