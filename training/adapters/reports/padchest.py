"""PadChest: 160,861 films of one Spanish hospital, 194 labels in a tree, a quarter of them read by physicians.

A report's labels are complete: what is not in them is absent. Each is counted with the labels above it in the tree
(``training.adapters.reports.padchest_tree``).

References
----------
Bustos et al. 2020, "PadChest", https://doi.org/10.1016/j.media.2020.101797; https://bimcv.cipf.es/bimcv-projects/padchest/
"""

from __future__ import annotations

import ast
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd

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
from training.adapters.reading.values import age_of, date_of, iso, sex_of
from training.adapters.reports.padchest_tree import with_parents

_NAME = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
_COLUMNS = ("ImageID", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM", "Projection",
            "Manufacturer_DICOM", "MethodLabel", "Labels")  # fmt: skip
_VIEWS = {"PA": "PA", "AP": "AP", "AP_HORIZONTAL": "AP_supine", "L": "L"}
_REASONS = {"COSTAL": "not_radiograph", "EXCLUDE": "excluded"}
_SAY_NOTHING = frozenset({"", "unchanged", "suboptimal study"})
_ABOUT_DEVICES = frozenset(
    {"electrical device", "catheter", "surgery", "artificial heart valve", "endotracheal tube", "tracheostomy tube",
     "NSG tube", "chest drain tube", "gastrostomy tube", "nephrostomy tube", "ventriculoperitoneal drain tube",
     "double J stent", "external foreign body"}
)  # fmt: skip
_LICENCE = "PadChest: non-commercial research"


def index(
    root: Path,
    *,
    labels: Annotated[Literal["all", "physician"], "Whose labels: all, or a physician's alone."] = "all",
    laterals: Annotated[bool, "Take lateral views too."] = False,
    check_files: Annotated[bool, "Check that every image exists."] = True,
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index PadChest.

    Parameters
    ----------
    root
        The folder with the table (``.csv`` or ``.csv.gz``); the images are in it or in folders below it (``0``
        to ``54``).
    labels, laterals, check_files
        See their help.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is normal, abnormal (a finding beside devices and surgery), or empty.

    Raises
    ------
    ManifestError
        If the table is missing, or lacks a column.
    """
    base = dataset_folder(root)
    rejected: list[Rejection] = []
    file = find_one(base, [_NAME, f"{_NAME}.gz"], "table of images")
    table = read_table(file, rejected, required=_COLUMNS)[[*_COLUMNS, LINE]]
    watch("read", len(table), len(table))
    label, findings = _labels(table["Labels"])
    projection = table["Projection"].str.upper()
    view = projection.map(_VIEWS).fillna("")
    paths = find_by_name(base, table["ImageID"], check=check_files)
    reason = first_reason(
        table.index,
        [
            (table["ImageID"] == "", "no_path"),
            (table["ImageID"].duplicated(), "duplicate"),
            (projection.isin(_REASONS), projection.map(_REASONS)),
            (view == "", "bad_view"),
            ((view == "L") & (not laterals), "lateral"),
            ((table["MethodLabel"] != "Physician") & (labels == "physician"), "other_part"),
            (label.str.startswith("!"), label.str.slice(1)),
            (table["PatientID"] == "", "no_patient"),
            (paths == "", "no_file"),
        ],
    )
    rejected += reject_lines(file.name, table[LINE], reason)
    accepted = reason == ""
    cases = _cases(table[accepted], paths[accepted]).assign(label=label[accepted], view=view[accepted])
    cases = pd.concat([cases, findings[accepted]], axis=1)
    watch("checked", len(table), len(table))
    by_network = int((accepted & (table["MethodLabel"] != "Physician")).sum())
    note = f"The labels of {by_network} images were read by a neural network: --labels physician leaves them out."
    return index_result(cases, rejected, [note] if by_network else [])


def _labels(texts: pd.Series) -> tuple[pd.Series, pd.DataFrame]:
    """Return each line's class, or "!" and the reason of its rejection; and its findings."""
    terms = {text: _read_terms(text) for text in texts.unique()}
    label = texts.map({text: _overall(each) for text, each in terms.items()})
    return label, expand(texts, lambda text: findings_row("padchest", with_parents(terms[text])))


def _read_terms(text: str) -> frozenset[str]:
    """Return the labels of a Python list; none of another text."""
    try:
        listed = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return frozenset()
    return frozenset(str(term).strip() for term in listed) if isinstance(listed, list) else frozenset()


def _overall(terms: frozenset[str]) -> str:
    said = terms - _SAY_NOTHING
    if "exclude" in said:
        return "!excluded"
    if not said:
        return "!label_missing"
    if "normal" in said:
        return "normal" if said == {"normal"} else "!label_contradictory"
    is_about_devices = all(with_parents([term]) & _ABOUT_DEVICES for term in said)
    return "" if is_about_devices else "abnormal"


def _cases(table: pd.DataFrame, paths: pd.Series) -> pd.DataFrame:
    dates = {text: date_of(text) for text in table["StudyDate_DICOM"].unique()}
    taken_on = table["StudyDate_DICOM"].map(dates)
    return pd.DataFrame(
        {
            "image_id": "padchest:" + table["ImageID"],
            "path": paths,
            "source": "padchest",
            "patient_id": "padchest:" + table["PatientID"],
            "study_id": "padchest:" + table["StudyID"],
            "sex": table["PatientSex_DICOM"].map(sex_of),
            "age": [_age(day, birth) for day, birth in zip(taken_on, table["PatientBirth"], strict=True)],
            "manufacturer": table["Manufacturer_DICOM"].replace("None", ""),
            "acquired_on": taken_on.map(iso),
            "site": "san_juan_de_alicante",
            "licence": _LICENCE,
        },
        index=table.index,
    )


def _age(day: date | None, year_of_birth: str) -> float | None:
    """Return the age in whole years, one too many before the birthday: only the year of birth is known."""
    birth = year_of_birth.partition(".")[0]
    return age_of(str(day.year - int(birth))) if day is not None and birth.isdigit() else None
