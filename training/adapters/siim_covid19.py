"""SIIM-FISABIO-RSNA COVID-19 Detection (Kaggle 2021): appearance of a study, boxes of opacities in its films.

Films are of BIMCV-COVID19 and RICORD. The classes are RSNA's words for how far a film looks like COVID-19, not test
results; a study negative for pneumonia need not be normal. Of a study's several films, often only one has its boxes.

References
----------
Lakhani et al. 2021, "The 2021 SIIM-FISABIO-RSNA Machine Learning COVID-19 Challenge",
https://doi.org/10.31219/osf.io/532ek
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr.labels import findings_of
from training.adapters.reading.boxes import box_row
from training.adapters.reading.dataset_folder import all_files, dataset_folder, find_one
from training.adapters.reading.dicom_files import read_image
from training.adapters.reading.result import IndexResult, Rejection, ReportProgress, ignore_progress, index_result
from training.adapters.reading.tables import LINE, read_table
from training.cases import LABEL_PREFIX

_NEGATIVE = "Negative for Pneumonia"
_APPEARANCES = {term: each.name for each in findings_of("siim_covid") for term in each.dataset_terms["siim_covid"]}
_SIDES_OF_BOX = ("x", "y", "width", "height")
_EVERY = 200
_LICENCE = "Kaggle: non-commercial research"


def index(root: Path, *, watch: ReportProgress = ignore_progress) -> IndexResult:
    """Index the challenge's training films.

    Parameters
    ----------
    root
        The folder with ``train_study_level.csv``, ``train_image_level.csv`` and ``train``.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is covid19_typical, covid19_indeterminate, covid19_atypical or negative.

    Raises
    ------
    ManifestError
        If a table is missing, or lacks a column.
    """
    base = dataset_folder(root)
    rejected: list[Rejection] = []
    studies_file = find_one(base, ["train_study_level.csv"], "table of studies")
    images_file = find_one(base, ["train_image_level.csv"], "table of images")
    labels = _labels(studies_file, rejected)
    images = read_table(images_file, rejected, required=("id", "boxes", "StudyInstanceUID"))
    files = {path.stem: path for path in all_files(base) if path.suffix.casefold() == ".dcm"}
    rows: dict[str, dict[str, Any]] = {}
    boxes = []
    for number, record in enumerate(images.to_dict("records"), start=1):
        name, line = str(record["id"]).removesuffix("_image"), int(record[LINE])
        drawn = _read_boxes(str(record["boxes"]))
        row = "duplicate" if name in rows else _row(files.get(name), name, labels.get(str(record["StudyInstanceUID"])))
        if isinstance(row, str):
            rejected.append(Rejection(images_file.name, line, row))
        else:
            rows[name] = row | {"label_lung_opacity": _has_opacity(row["label"], drawn)}
            read = [box_row(f"siim-covid19:{name}", "lung_opacity", sides) for sides in drawn]
            rejected += [Rejection(images_file.name, line, "bad_box")] * read.count(None)
            boxes += [box for box in read if box is not None]
        if number % _EVERY == 0 or number == len(images):
            watch("headers", number, len(images))
    return index_result(rows.values(), rejected, boxes=boxes)


def _labels(path: Path, rejected: list[Rejection]) -> Mapping[str, str]:
    """Return the class of each study, named by its UID; reject lines with none or several."""
    table = read_table(path, rejected, required=("id", _NEGATIVE, *_APPEARANCES))
    classes = {_NEGATIVE: "negative", **_APPEARANCES}
    marked = table[list(classes)] == "1"
    is_one = marked.sum(axis=1) == 1
    rejected += [Rejection(path.name, int(line), "label_contradictory") for line in table.loc[~is_one, LINE]]
    chosen = marked[is_one].idxmax(axis=1).map(classes)
    return dict(zip(table.loc[is_one, "id"].str.removesuffix("_study"), chosen, strict=True))


def _read_boxes(text: str) -> list[Sequence[object]]:
    try:
        listed = ast.literal_eval(text) if text else []
        return [tuple(box[side] for side in _SIDES_OF_BOX) for box in listed]
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        return [()]


def _has_opacity(label: str, boxes: Sequence[object]) -> float | None:
    if boxes:
        return 1.0
    return 0.0 if label == "negative" else None


def _row(path: Path | None, name: str, label: str | None) -> dict[str, Any] | str:
    if label is None or path is None:
        return "label_missing" if label is None else "no_file"
    image = read_image(path)
    if isinstance(image, str):
        return image
    row = image.row(image_id=f"siim-covid19:{name}", source="siim-covid19", label=label, licence=_LICENCE)
    patient = row["patient_id"]
    findings = {LABEL_PREFIX + appearance: float(appearance == label) for appearance in _APPEARANCES.values()}
    return row | {"patient_id": f"siim-covid19:{patient}" if patient else ""} | findings
