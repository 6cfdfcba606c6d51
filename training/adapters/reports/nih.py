"""NIH ChestX-ray14: 112,120 films, fourteen findings taken from reports by rules, some bounding boxes.

A line's labels are complete: a finding that is not in it is absent. The table's patient numbers are the first part of
the file names, as in RSNA's mapping (``training.adapters.rsna``), so that a patient of both is one.

References
----------
Wang et al. 2017, "ChestX-ray8", https://doi.org/10.1109/CVPR.2017.369; https://nihcc.app.box.com/v/ChestXray-NIHCC
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd

from cxr.labels import finding_of
from training.adapters.reading.boxes import box_row
from training.adapters.reading.dataset_folder import dataset_folder, find_by_name, find_one
from training.adapters.reading.finding_columns import expand, findings_row
from training.adapters.reading.result import (
    IndexResult,
    Rejection,
    ReportProgress,
    first_reason,
    ignore_progress,
    index_result,
    reject_lines,
)
from training.adapters.reading.tables import LINE, read_table
from training.adapters.reading.values import age_of, sex_of

_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv.gz")
_BOXES = ("BBox_List_2017.csv", "BBox_List_2017.csv.gz")
_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
_LISTS = {"train_val": "train_val_list.txt", "test": "test_list.txt"}
_LICENCE = "NIH: free use with attribution"


def index(
    root: Path,
    *,
    part: Annotated[
        Literal["all", "train_val", "test"],
        "The images of one of the data set's lists (train_val_list.txt, test_list.txt).",
    ] = "all",
    check_files: Annotated[bool, "Check that every image exists."] = True,
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index ChestX-ray14.

    Parameters
    ----------
    root
        The folder with ``Data_Entry_2017_v2020.csv``; the images are in it or in folders below it
        (``images_001`` to ``images_012``).
    part, check_files
        See their help.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is normal (No Finding) or abnormal; bounding boxes where ``BBox_List_2017.csv`` is there.

    Raises
    ------
    ManifestError
        If a table or list is missing, or lacks a column.
    """
    base = dataset_folder(root)
    rejected: list[Rejection] = []
    file = find_one(base, _TABLES, "table of images")
    table = read_table(file, rejected, required=_COLUMNS)
    watch("read", len(table), len(table))
    names = table["Image Index"]
    label, findings = _labels(table["Finding Labels"])
    paths = find_by_name(base, names, check=check_files)
    reason = first_reason(
        table.index,
        [
            (names == "", "no_path"),
            (names.duplicated(), "duplicate"),
            (~names.isin(_listed(base, part)) & (part != "all"), "other_part"),
            (~table["View Position"].isin(("PA", "AP")), "bad_view"),
            (label.str.startswith("label_"), label),
            (table["Patient ID"] == "", "no_patient"),
            (paths == "", "no_file"),
        ],
    )
    rejected += reject_lines(file.name, table[LINE], reason)
    accepted = reason == ""
    cases = _cases(table[accepted], paths[accepted]).assign(label=label[accepted])
    cases = pd.concat([cases, findings[accepted]], axis=1)
    watch("checked", len(table), len(table))
    boxes = _boxes(base, rejected)
    return index_result(cases, rejected, boxes=boxes)


def _listed(base: Path, part: str) -> set[str]:
    if part == "all":
        return set()
    return set(find_one(base, [_LISTS[part]], f"list of {part}").read_text(encoding="utf-8").split())


def _labels(texts: pd.Series) -> tuple[pd.Series, pd.DataFrame]:
    """Return each line's class, or the reason of its rejection; and its findings."""
    combinations = {text: [term.strip() for term in text.split("|") if term.strip()] for text in texts.unique()}
    label = texts.map({text: _overall(terms) for text, terms in combinations.items()})
    return label, expand(texts, lambda text: findings_row("nih", combinations[text]))


def _overall(terms: list[str]) -> str:
    names = [finding.name if (finding := finding_of("nih", term)) is not None else "" for term in terms]
    if not names or "" in names:
        return "label_unknown" if names else "label_missing"
    if "normal" not in names:
        return "abnormal"
    return "normal" if names == ["normal"] else "label_contradictory"


def _cases(table: pd.DataFrame, paths: pd.Series) -> pd.DataFrame:
    sex = next((table[name] for name in ("Patient Gender", "Patient Sex") if name in table), None)
    patient = "nih:" + table["Patient ID"].str.zfill(8)
    ages = {text: age_of(text) for text in table["Patient Age"].unique()}
    return pd.DataFrame(
        {
            "image_id": "nih:" + table["Image Index"],
            "path": paths,
            "source": "nih",
            "patient_id": patient,
            "view": table["View Position"],
            "sex": "" if sex is None else sex.map(sex_of),
            "age": table["Patient Age"].map(ages).astype(float),
            "site": "nih",
            "licence": _LICENCE,
        }
    )


def _boxes(base: Path, rejected: list[Rejection]) -> list[dict[str, Any]]:
    path = next((base / name for name in _BOXES if (base / name).is_file()), None)
    if path is None:
        return []
    table = read_table(path, rejected, required=("Image Index", "Finding Label"))
    sides = [name for name in table.columns if name not in ("Image Index", "Finding Label", LINE)][:4]
    boxes = []
    for row in table[[LINE, "Image Index", "Finding Label", *sides]].itertuples(index=False):
        line, image, term, *corners = row
        finding = finding_of("nih", str(term))
        box = box_row(f"nih:{image}", finding.name, corners) if finding is not None else None
        if box is None:
            rejected.append(Rejection(path.name, int(line), "bad_box" if finding is not None else "label_unknown"))
        else:
            boxes.append(box)
    return boxes
