"""ieee8023/covid-chestxray-dataset: pictures from papers and websites, with metadata.csv.

Forks up to mid-2020 have flat findings ("COVID-19, ARDS"), later ones a path
("Pneumonia/Viral/COVID-19"): single words are compared.

References
----------
Cohen et al. 2020, "COVID-19 Image Data Collection", https://arxiv.org/abs/2006.11988
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

from training.adapters.reading.dataset_folder import dataset_folder, find_one
from training.adapters.reading.result import IndexResult, Rejection, ReportProgress, ignore_progress, index_result
from training.adapters.reading.tables import LINE, read_table
from training.adapters.reading.values import age_of, date_of, iso, sex_of, view_of

_COLUMNS = ("patientid", "finding", "view", "filename", "sex", "age", "date", "location", "license")
_MISSING = frozenset({"", "todo", "unknown"})
_VIRAL = frozenset({"viral", "sars", "mers", "mers-cov", "influenza", "h1n1", "varicella", "herpes"})
_BACTERIAL = frozenset(
    {"bacterial", "streptococcus", "klebsiella", "legionella", "e.coli", "mycoplasma", "chlamydophila", "nocardia",
     "staphylococcus", "mrsa"}
)  # fmt: skip
_OTHER = frozenset({"pneumonia", "fungal", "pneumocystis", "aspergillosis", "lipoid", "aspiration"})
_RADIOGRAPHS = frozenset({"", "x-ray", "xray", "x ray"})


def index(
    root: Path, *, laterals: Annotated[bool, "Take lateral views too."] = False, watch: ReportProgress = ignore_progress
) -> IndexResult:
    """Index the data set.

    Parameters
    ----------
    root
        The checkout: ``metadata.csv`` and ``images``.
    laterals
        Accept lateral views.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is covid19, viral_pneumonia, bacterial_pneumonia, other_pneumonia, normal or
        abnormal.

    Raises
    ------
    ManifestError
        If ``metadata.csv`` is missing or lacks a column.
    """
    base = dataset_folder(root)
    file = find_one(base, ["metadata.csv"], "metadata.csv")
    rejected: list[Rejection] = []
    table = read_table(file, rejected, required=_COLUMNS)
    rows: dict[str, dict[str, Any]] = {}
    for record in table.to_dict("records"):
        line = int(record.pop(LINE))
        values = {str(name).strip().casefold(): str(value) for name, value in record.items()}
        row = _row(base, values, laterals=laterals)
        if isinstance(row, str):
            rejected.append(Rejection(file.name, line, row))
        elif row["path"] in rows:
            rejected.append(Rejection(file.name, line, "duplicate"))
        else:
            rows[row["path"]] = row
    watch("read", len(table), len(table))
    rejected += _unlisted(base, table)
    return index_result(rows.values(), rejected)


def label_of(finding: str) -> str:
    """Return the class of a finding in either form; empty without a finding.

    Examples
    --------
    >>> label_of("Pneumonia/Viral/COVID-19"), label_of("COVID-19, ARDS"), label_of("Streptococcus")
    ('covid19', 'covid19', 'bacterial_pneumonia')
    """
    words = {word.strip().casefold() for word in re.split(r"[/,]", finding)} - _MISSING
    words |= {part for word in words for part in word.split()}  # forks of 2020: "Mycoplasma Bacterial Pneumonia"
    for name, class_words in (
        ("covid19", {"covid-19"}),
        ("normal", {"no finding"}),
        ("viral_pneumonia", _VIRAL),
        ("bacterial_pneumonia", _BACTERIAL),
        ("other_pneumonia", _OTHER),
    ):
        if words & class_words:
            return name
    return "abnormal" if words else ""


def _row(base: Path, values: Mapping[str, str], *, laterals: bool) -> dict[str, Any] | str:
    view = view_of(values["view"])
    path = base / (values.get("folder") or "images") / values["filename"]
    label = label_of(values["finding"])
    if values.get("modality", "").casefold() not in _RADIOGRAPHS or view is None:
        return "not_radiograph"
    if view == "L" and not laterals:
        return "lateral"
    if not label:
        return "label_missing"
    if not values["filename"] or not path.is_file():
        return "no_file" if values["filename"] else "no_path"
    patient = values["patientid"]
    return {
        "image_id": f"covid-chestxray:{values['filename']}",
        "path": str(path),
        "source": "covid-chestxray",
        "patient_id": f"covid-chestxray:{patient}" if patient else "",
        "image_wise": "" if patient else "yes",
        "label": label,
        "label_covid19": float(label == "covid19"),
        "view": view,
        "sex": sex_of(values["sex"]),
        "age": age_of(values["age"]),
        "site": values["location"],
        "acquired_on": iso(date_of(values["date"])) if re.search(r"\d.*\D|\d{8}", values["date"]) else "",
        "licence": values["license"],
    }


def _unlisted(base: Path, table: pd.DataFrame) -> list[Rejection]:
    """Return a rejection for each picture that is not in the table."""
    named = set(table["filename"])
    pictures = sorted((base / "images").glob("*")) if (base / "images").is_dir() else []
    return [Rejection(f"images/{path.name}", 0, "not_listed") for path in pictures if path.name not in named]
