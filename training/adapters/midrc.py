"""MIDRC (Gen3) and RICORD downloads: DICOM files in any folders, and their tables.

Tables are recognised by their columns: studies (``case_ids`` and ``study_uid``), cases
(``submitter_id`` and ``covid19_positive``), or the Cancer Imaging Archive's ``metadata.csv``
(``Collection`` and ``Study UID``). A study has several images; secondary captures and processed
copies are rejected.

References
----------
https://data.midrc.org; https://doi.org/10.7937/91ah-v663 (MIDRC-RICORD-1c: all COVID-19)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

from cxr.errors import ManifestError
from training.adapters.reading.dataset_folder import dataset_folder
from training.adapters.reading.dicom_files import DicomImage, reject_image, scan
from training.adapters.reading.result import IndexResult, Rejection, ReportProgress, ignore_progress, index_result
from training.adapters.reading.tables import LINE, read_table
from training.adapters.reading.values import age_of, sex_of

_POSITIVE_DAYS = "days_from_study_to_pos_covid_test"
_NEGATIVE_DAYS = "days_from_study_to_neg_covid_test"
_RICORD = {"MIDRC-RICORD-1C": "covid19"}
_BY_CASE = {"yes": "covid19", "no": "negative"}


@dataclass(slots=True)
class _Tables:
    """Content of the tables, by study and by case."""

    label: dict[str, str] = field(default_factory=dict)  # study -> class, or "!" and a reason of rejection
    case: dict[str, str] = field(default_factory=dict)  # study -> case
    about: dict[str, dict[str, str]] = field(default_factory=dict)  # case -> sex, age, site, status
    lines: dict[str, tuple[str, int]] = field(default_factory=dict)  # study -> table and line


def index(
    root: Path,
    *,
    days: Annotated[int, "Largest distance of study and test."] = 2,
    by_case: Annotated[
        bool, "Without a test within the days, label by the case's status, which may be of another time."
    ] = False,
    unknown_views: Annotated[bool, "Take images without a projection in their header."] = False,
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index a download.

    Parameters
    ----------
    root
        The folder with the tables; DICOM files are found anywhere below it.
    days, by_case, unknown_views
        See their help.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is covid19 or negative.

    Raises
    ------
    ManifestError
        If no table has the columns of one of those above.
    """
    base = dataset_folder(root)
    rejected: list[Rejection] = []
    files = sorted(path for path in base.iterdir() if path.suffix.casefold() in (".csv", ".tsv"))
    tables, used = _read(files, rejected, days)
    images = scan(base, rejected, watch=watch, besides=used, unknown_views=unknown_views, originals_only=True)
    rows = []
    for image in images:
        row = _row(image, tables, by_case=by_case)
        if isinstance(row, str):
            rejected.append(reject_image(image, base, row))
        else:
            rows.append(row)
    studies = {image.header.study_instance_uid for image in images}
    rejected += [
        Rejection(name, line, "no_image") for study, (name, line) in tables.lines.items() if study not in studies
    ]
    return index_result(rows, rejected)


def _read(files: list[Path], rejected: list[Rejection], days: int) -> tuple[_Tables, list[Path]]:
    tables, used = _Tables(), []
    readers: tuple[tuple[set[str], Callable[..., None]], ...] = (
        ({"collection", "study uid"}, _read_archive),
        ({"case_ids", "study_uid"}, _read_studies),
        ({"submitter_id", "covid19_positive"}, _read_cases),
    )
    for path in files:
        table = read_table(path, rejected)
        table.columns = [str(name).casefold() for name in table.columns]
        for columns, reader in readers:
            if columns <= set(table.columns):
                reader(table, path.name, tables, days)
                used.append(path)
                break
    if not used:
        raise ManifestError(
            "None of the tables is of MIDRC or the Cancer Imaging Archive; accepted are CSV or TSV with case_ids and "
            "study_uid, submitter_id and covid19_positive, or Collection and Study UID."
        )
    return tables, used


def _read_archive(table: pd.DataFrame, name: str, tables: _Tables, _days: int) -> None:
    for row in _records(table):
        study = row["study uid"]
        tables.label[study] = _RICORD.get(row["collection"].upper(), "!label_unknown")
        tables.case[study] = row.get("subject id", "")
        tables.lines.setdefault(study, (name, int(row[LINE])))


def _read_studies(table: pd.DataFrame, name: str, tables: _Tables, days: int) -> None:
    for row in _records(table):
        study = row["study_uid"]
        tables.case[study] = row["case_ids"].strip("[]'\" ")
        tables.lines.setdefault(study, (name, int(row[LINE])))
        if label := _nearest_test(row.get(_POSITIVE_DAYS, ""), row.get(_NEGATIVE_DAYS, ""), days):
            tables.label[study] = label


def _read_cases(table: pd.DataFrame, _name: str, tables: _Tables, _days: int) -> None:
    for row in _records(table):
        tables.about[row["submitter_id"]] = row


def _records(table: pd.DataFrame) -> Iterator[dict[str, str]]:
    for row in table.to_dict("records"):
        yield {str(name): str(value) for name, value in row.items()}


def _nearest_test(positive: str, negative: str, days: int) -> str:
    """Return the class of the nearest test; "!" and a reason if it is too far or contradicted; empty without a test."""
    distances = [[abs(int(number)) for number in re.findall(r"-?\d+", text)] for text in (positive, negative)]
    nearest = [min(each, default=days + 1) for each in distances]
    if min(nearest) > days:
        return "!outside_window" if any(distances) else ""
    if nearest[0] == nearest[1]:
        return "!label_contradictory"
    return "covid19" if nearest[0] < nearest[1] else "negative"


def _row(image: DicomImage, tables: _Tables, *, by_case: bool) -> dict[str, Any] | str:
    study = image.header.study_instance_uid or ""
    case = tables.case.get(study) or image.header.patient_id or ""
    about = tables.about.get(case, {})
    label = tables.label.get(study, "")
    if by_case and label in ("", "!outside_window"):
        label = _BY_CASE.get(about.get("covid19_positive", "").casefold(), label)
    if not label or label.startswith("!"):
        return label[1:] or "no_test"
    source = "ricord" if study in tables.label and not about and label == "covid19" and _is_ricord(case) else "midrc"
    row = image.row(image_id=f"{source}:{image.header.sop_instance_uid}", source=source, label=label)
    return row | {
        "patient_id": f"{source}:{case}" if case else "",
        "image_wise": "" if case else "yes",
        "label_covid19": float(label == "covid19"),
        "sex": row["sex"] or sex_of(about.get("sex", "")),
        "age": row["age"] if row["age"] is not None else age_of(about.get("age_at_index", "")),
        "site": _site(case, about),
    }


def _is_ricord(case: str) -> bool:
    return case.upper().startswith("MIDRC-RICORD")


def _site(case: str, about: Mapping[str, str]) -> str:
    """Return the submitting site, with which case numbers of MIDRC and RICORD begin."""
    return about.get("site_id", "") or case.upper().removeprefix("MIDRC-RICORD-1C-").partition("-")[0]
