"""MIDRC (Gen3) and RICORD downloads: DICOM files in any folders, and the tables that came with them.

Found by their columns, not their names: studies (``case_ids`` and ``study_uid``), cases
(``submitter_id`` and ``covid19_positive``), or the Cancer Imaging Archive's ``metadata.csv``
(``Collection`` and ``Study UID``). A study has several images; screenshots and processed copies
are left out.

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
from training.adapters.reading.dataset_folder import folder
from training.adapters.reading.dicom_files import DicomImage, reject_image, scan
from training.adapters.reading.result import Indexed, Rejection, ReportProgress, indexed, silent
from training.adapters.reading.tables import LINE, read_table
from training.adapters.reading.values import age_of, sex_of

_POSITIVE_DAYS = "days_from_study_to_pos_covid_test"
_NEGATIVE_DAYS = "days_from_study_to_neg_covid_test"
_RICORD = {"MIDRC-RICORD-1C": "covid19"}
_BY_CASE = {"yes": "covid19", "no": "negative"}


@dataclass(slots=True)
class _Tables:
    """What the tables say, by study and by case."""

    label: dict[str, str] = field(default_factory=dict)  # study -> class, or a reason with an exclamation mark
    case: dict[str, str] = field(default_factory=dict)  # study -> case
    about: dict[str, dict[str, str]] = field(default_factory=dict)  # case -> sex, age, site, status
    lines: dict[str, tuple[str, int]] = field(default_factory=dict)  # study -> table and line


def index(
    root: Path,
    *,
    days: Annotated[int, "Between study and test at most."] = 2,
    by_case: Annotated[bool, "Label by the case's status where no test is near; it may be of another time."] = False,
    unknown_views: Annotated[bool, "Take images whose header does not tell the projection."] = False,
    watch: ReportProgress = silent,
) -> Indexed:
    """Index a download.

    Parameters
    ----------
    root
        The folder with the tables; DICOM files are found anywhere below it.
    days, by_case, unknown_views
        See their help.
    watch
        Told how far it is.

    Returns
    -------
    Indexed
        ``label`` is covid19 or negative.

    Raises
    ------
    ManifestError
        If no table is one of those above.
    """
    base = folder(root)
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
    there = {image.header.study_instance_uid for image in images}
    rejected += [
        Rejection(name, line, "no_image") for study, (name, line) in tables.lines.items() if study not in there
    ]
    return indexed(rows, rejected)


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
        for needed, reader in readers:
            if needed <= set(table.columns):
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
    """The class of the nearest test; a reason after an exclamation mark if two contradict; nothing if none is near."""
    distances = [[abs(int(number)) for number in re.findall(r"-?\d+", text)] for text in (positive, negative)]
    nearest = [min(found, default=days + 1) for found in distances]
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
    """The submitting site: MIDRC's and RICORD's case numbers begin with it."""
    return about.get("site_id", "") or case.upper().removeprefix("MIDRC-RICORD-1C-").partition("-")[0]
