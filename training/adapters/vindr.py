"""VinDr-CXR: 18,000 frontal films, each of the training side read by three of seventeen radiologists.

PhysioNet's tables have a line for each film and reader with all labels, and boxes in a table of their own; Kaggle's
``train.csv`` has a line for each box, with the fourteen labels that are drawn, or No finding. Patients are not named.

References
----------
Nguyen et al. 2022, "VinDr-CXR", https://doi.org/10.1038/s41597-022-01498-w; https://physionet.org/content/vindr-cxr/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd

from cxr.errors import ManifestError
from cxr.labels import finding_of
from training.adapters.reading.boxes import box_row
from training.adapters.reading.dataset_folder import all_files, dataset_folder
from training.adapters.reading.dicom_files import read_image
from training.adapters.reading.reader_votes import Decision, agreement, decide
from training.adapters.reading.result import IndexResult, Rejection, ReportProgress, ignore_progress, index_result
from training.adapters.reading.tables import LINE, read_table
from training.cases import LABEL_PREFIX

_SUFFIXES = (".dicom", ".dcm", ".png", ".jpg", ".jpeg")
_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_EVERY = 200
_LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"
_NOTE = "Patients are not named: figures are image-wise."


@dataclass(slots=True)
class _Readings:
    """What the tables say."""

    name: str  # of the table of labels
    votes: pd.DataFrame  # film and reader -> finding -> 0 or 1, indexed by film
    lines: dict[str, int]  # film -> its first line
    boxes: list[dict[str, Any]] = field(default_factory=list)


def index(
    root: Path,
    *,
    part: Annotated[Literal["train", "test"], "Which side; the test's labels are a consensus."] = "train",
    readers: Annotated[Decision, "A finding is present if most readers of the film say so, or any."] = "majority",
    check_files: Annotated[bool, "Read the headers of the films."] = True,
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index VinDr-CXR.

    Parameters
    ----------
    root
        The folder with ``annotations`` (PhysioNet) or ``train.csv`` (Kaggle); films are in ``train`` or ``test``,
        as ``.dicom`` or converted to PNG.
    part, readers, check_files
        See their help.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is normal (No finding) or abnormal; boxes with their reader. The notes have the readers'
        agreement.

    Raises
    ------
    ManifestError
        If there is no table, or it lacks a column.
    """
    base = dataset_folder(root)
    rejected: list[Rejection] = []
    readings = _read(base, part, rejected)
    decided = decide(readings.votes, readers)
    # Most readers may see something, and no two the same.
    is_normal = decide(readings.votes[["normal"]], "majority")["normal"] == 1
    if readers == "any":
        is_normal &= ~(decided.drop(columns="normal") == 1).any(axis=1)
    decided["normal"] = is_normal.astype(float)
    files = {path.stem: path for path in all_files(base) if path.suffix.casefold() in _SUFFIXES} if check_files else {}
    rows = []
    for number, (film, findings) in enumerate(decided.iterrows(), start=1):
        row = _row(base / part / f"{film}.dicom" if not check_files else files.get(str(film)), str(film), check_files)
        if isinstance(row, str):
            rejected.append(Rejection(readings.name, readings.lines[str(film)], row))
        else:
            label = "normal" if findings["normal"] == 1 else "abnormal"
            rows.append(row | {"label": label} | {LABEL_PREFIX + str(name): value for name, value in findings.items()})
        if number % _EVERY == 0 or number == len(decided):
            watch("headers", number, len(decided))
    return index_result(rows, rejected, [_NOTE, *_describe_agreement(readings.votes)], boxes=readings.boxes)


def _read(base: Path, part: str, rejected: list[Rejection]) -> _Readings:
    folder = base / "annotations"
    labels = folder / f"image_labels_{part}.csv"
    boxes = base / "train.csv" if part == "train" else base / "test.csv"
    if labels.is_file():
        readings = _read_labels(labels, rejected)
        drawn = folder / f"annotations_{part}.csv"
        if drawn.is_file():
            readings.boxes = _boxes(read_table(drawn, rejected, required=("image_id", "class_name", *_CORNERS)))
        return readings
    if boxes.is_file():
        return _read_boxes(boxes, rejected)
    raise ManifestError(
        f"The folder {base.name!r} has no table of labels; looked for annotations/{labels.name} (PhysioNet) and "
        f"{boxes.name} (Kaggle)."
    )


def _read_labels(path: Path, rejected: list[Rejection]) -> _Readings:
    """Read PhysioNet's table: a line for each film and reader, a column for each label."""
    table = read_table(path, rejected, required=("image_id",))
    terms = {name: finding.name for name in table.columns if (finding := finding_of("vindr", str(name))) is not None}
    if "normal" not in terms.values():
        raise ManifestError(f"The table {path.name} lacks the column No finding: is this the data set that was named?")
    is_read = table[list(terms)].isin(("0", "1", "0.0", "1.0")).all(axis=1)
    rejected += [Rejection(path.name, int(line), "bad_finding") for line in table.loc[~is_read, LINE]]
    read = table[is_read]
    votes = read[list(terms)].astype(float).rename(columns=terms).set_index(read["image_id"])
    return _Readings(path.name, votes, _first_lines(read))


def _read_boxes(path: Path, rejected: list[Rejection]) -> _Readings:
    """Read Kaggle's table: a line for each box; what no line of a reader names, the reader did not see."""
    table = read_table(path, rejected, required=("image_id", "class_name", "rad_id", *_CORNERS))
    found = {text: finding_of("vindr", text) for text in table["class_name"].unique()}
    table["finding"] = table["class_name"].map({text: each.name if each else "" for text, each in found.items()})
    is_known = table["finding"] != ""
    rejected += [Rejection(path.name, int(line), "label_unknown") for line in table.loc[~is_known, LINE]]
    read = table[is_known]
    votes = (pd.crosstab([read["image_id"], read["rad_id"]], read["finding"]) > 0).astype(float).droplevel(1)
    if "normal" not in votes:
        votes["normal"] = 0.0
    return _Readings(path.name, votes, _first_lines(read), _boxes(read[read["finding"] != "normal"]))


def _first_lines(table: pd.DataFrame) -> dict[str, int]:
    first = table.drop_duplicates("image_id")
    return dict(zip(first["image_id"].astype(str), first[LINE].astype(int), strict=True))


def _boxes(table: pd.DataFrame) -> list[dict[str, Any]]:
    reader = next((table[name] for name in ("rad_id", "rad_ID") if name in table), pd.Series("", index=table.index))
    corners = table[list(_CORNERS)].apply(pd.to_numeric, errors="coerce")
    sides = zip(corners["x_min"], corners["y_min"], corners["x_max"] - corners["x_min"],
                corners["y_max"] - corners["y_min"], strict=True)  # fmt: skip
    boxes = []
    for image, term, who, box in zip(table["image_id"], table["class_name"], reader, sides, strict=True):
        finding = finding_of("vindr", term)
        if finding is not None and (row := box_row(f"vindr:{image}", finding.name, box, reader=str(who))) is not None:
            boxes.append(row)
    return boxes


def _row(path: Path | None, film: str, check: bool) -> dict[str, Any] | str:
    if path is None:
        return "no_file"
    common = {
        "image_id": f"vindr:{film}",
        "path": str(path),
        "source": "vindr",
        "patient_id": "",
        "image_wise": "yes",
        "view": "PA",  # of all films, as the data set's authors say
        "licence": _LICENCE,
    }
    if not check or path.suffix.casefold() not in (".dicom", ".dcm"):
        return common
    image = read_image(path, unknown_views=True)
    if isinstance(image, str):
        return image
    return image.row(**common)


def _describe_agreement(votes: pd.DataFrame) -> list[str]:
    kappas: Mapping[str, float] = {name: kappa for name, kappa in agreement(votes).items() if kappa == kappa}
    if not kappas:
        return []
    listed = ", ".join(f"{name} {kappa:.2f}" for name, kappa in sorted(kappas.items(), key=lambda item: -item[1]))
    return [f"Agreement of the readers (Fleiss' kappa): {listed}."]
