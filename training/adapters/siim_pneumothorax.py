"""SIIM-ACR Pneumothorax Segmentation (Kaggle 2019): films of NIH ChestX-ray14, pneumothoraces drawn.

The table has a line for each drawn pneumothorax, or one with -1. No mapping to NIH's patients was published: their
films are never to be combined with those of NIH or RSNA.

References
----------
Filice et al. 2020, "Crowdsourcing pneumothorax annotations using machine learning annotations on the NIH chest X-ray
dataset", https://doi.org/10.1007/s10278-019-00299-9
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.adapters.reading.dataset_folder import all_files, dataset_folder, find_one
from training.adapters.reading.dicom_files import read_image
from training.adapters.reading.result import IndexResult, Rejection, ReportProgress, ignore_progress, index_result
from training.adapters.reading.tables import LINE, read_table

_TABLES = ("train-rle.csv", "stage_2_train.csv", "siim-pneumothorax-train-rle.csv.gz")
_NONE = "-1"
_EVERY = 200
_NOTE = (
    "Films are of NIH ChestX-ray14, and which patients is not known: never combine them with NIH's or RSNA's films; "
    "figures are image-wise."
)


def index(root: Path, *, watch: ReportProgress = ignore_progress) -> IndexResult:
    """Index the challenge's training films.

    Parameters
    ----------
    root
        The folder with ``train-rle.csv``; the films are ``.dcm`` files in folders below it.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is pneumothorax or negative.

    Raises
    ------
    ManifestError
        If the table is missing, or lacks a column.
    """
    base = dataset_folder(root)
    rejected: list[Rejection] = []
    file = find_one(base, _TABLES, "table of films")
    table = read_table(file, rejected, required=("ImageId", "EncodedPixels"))
    files = {path.stem: path for path in all_files(base) if path.suffix.casefold() == ".dcm"}
    rows = []
    films = list(table.groupby("ImageId", sort=False))
    for number, (name, lines) in enumerate(films, start=1):
        row = _row(files.get(str(name)), str(name), set(lines["EncodedPixels"]))
        if isinstance(row, str):
            rejected.append(Rejection(file.name, int(lines[LINE].iloc[0]), row))
        else:
            rows.append(row)
        if number % _EVERY == 0 or number == len(films):
            watch("headers", number, len(films))
    return index_result(rows, rejected, [_NOTE])


def _row(path: Path | None, name: str, drawn: set[str]) -> dict[str, Any] | str:
    has_pneumothorax = _NONE not in drawn
    if "" in drawn or (not has_pneumothorax and len(drawn) > 1):
        return "label_missing" if "" in drawn else "label_contradictory"
    if path is None:
        return "no_file"
    image = read_image(path)
    if isinstance(image, str):
        return image
    label = "pneumothorax" if has_pneumothorax else "negative"
    row = image.row(image_id=f"siim-pneumothorax:{name}", source="siim-pneumothorax", label=label)
    return row | {
        "patient_id": "",
        "image_wise": "yes",
        "label_pneumothorax": float(has_pneumothorax),
        "site": "nih",
        "licence": "RSNA and SIIM: academic research and education",
    }
