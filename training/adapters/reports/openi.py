"""Open-i: the Indiana University collection, reports in XML or in Kaggle's tables, films as PNG or DICOM.

The MeSH terms that people gave a report are its labels, and complete. A report is of one person. The view of a film is
that of Kaggle's ``indiana_projections.csv`` or of the DICOM header.

References
----------
Demner-Fushman et al. 2016, "Preparing a collection of radiology examinations for distribution and retrieval",
https://doi.org/10.1093/jamia/ocv080; https://openi.nlm.nih.gov
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

from cxr.errors import ManifestError
from training.adapters.reading.dataset_folder import IMAGE_SUFFIXES, all_files, dataset_folder
from training.adapters.reading.dicom_files import read_image
from training.adapters.reading.finding_columns import findings_row
from training.adapters.reading.result import IndexResult, Rejection, ReportProgress, ignore_progress, index_result
from training.adapters.reading.tables import LINE, read_table

_REPORTS, _PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
_NAME = re.compile(r"(?:CXR\d+_)?(?:CXR)?(\d+_IM-[\d-]+)")
_NOT_INDEXED = frozenset({"no indexing", ""})
_VIEWS = {"frontal": "unknown", "lateral": "L"}
_DEVICE_TERMS = frozenset({"medical device", "catheters, indwelling", "implanted medical device", "tube, inserted",
                           "surgical instruments", "stents"})  # fmt: skip
_LICENCE = "CC BY-NC-ND 4.0"


@dataclass(frozen=True, slots=True)
class _Report:
    number: str
    source_file: str
    line: int
    terms: tuple[str, ...]  # without qualifiers
    films: tuple[str, ...]  # as ``_key`` returns them


def index(
    root: Path,
    *,
    unknown_views: Annotated[bool, "Take films without a view: half of them are laterals."] = False,
    laterals: Annotated[bool, "Take lateral views too."] = False,
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index the Indiana collection.

    Parameters
    ----------
    root
        The folder with the reports (``*.xml`` anywhere in it, or Kaggle's two tables) and the films.
    unknown_views, laterals
        See their help.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is normal, abnormal (a term beside devices), or empty.

    Raises
    ------
    ManifestError
        If there are no reports.
    """
    base = dataset_folder(root)
    rejected: list[Rejection] = []
    files = list(all_files(base))
    views = _projections(base, rejected)
    reports = list(_reports(base, files, views, rejected))
    if not reports:
        raise ManifestError(f"The folder {base.name!r} has no reports; looked for {_REPORTS} and for *.xml below it.")
    films = {key: path for path in files if path.suffix.casefold() in IMAGE_SUFFIXES and (key := _key(path.name))}
    rows = []
    for number, report in enumerate(reports, start=1):
        label = _overall(report.terms)
        reason = label[1:] if label.startswith("!") else "" if report.films else "no_path"
        for film in report.films if not reason else ("",):
            row = reason or _row(report, film, films.get(film), views.get(film, ""), laterals, unknown_views)
            if isinstance(row, str):
                rejected.append(Rejection(report.source_file, report.line, row))
            else:
                rows.append(row | {"label": label} | findings_row("openi", report.terms))
        if number % 200 == 0 or number == len(reports):
            watch("reports", number, len(reports))
    listed = {film for report in reports for film in report.films}
    rejected += [
        Rejection(path.relative_to(base).as_posix(), 0, "not_listed")
        for key, path in films.items()
        if key not in listed
    ]
    return index_result(rows, rejected)


def _key(name: str) -> str:
    """Return the part of a film's name that reports, tables and files share; empty if it has none."""
    matched = _NAME.match(name)
    return matched[1].rstrip("-") if matched else ""


def _projections(base: Path, rejected: list[Rejection]) -> Mapping[str, str]:
    path = base / _PROJECTIONS
    if not path.is_file():
        return {}
    table = read_table(path, rejected, required=("uid", "filename", "projection"))
    views = table["projection"].str.casefold().map(_VIEWS).fillna("unknown")
    return dict(zip(table["filename"].map(_key), views, strict=True))


def _reports(base: Path, files: list[Path], views: Mapping[str, str], rejected: list[Rejection]) -> Iterator[_Report]:
    table_file = base / _REPORTS
    if table_file.is_file():
        films: dict[str, list[str]] = {}
        for film in views:
            films.setdefault(film.partition("_")[0], []).append(film)
        for row in read_table(table_file, rejected, required=("uid", "MeSH")).to_dict("records"):
            terms = _terms(str(row["MeSH"]).split(";"))
            yield _Report(
                str(row["uid"]), table_file.name, int(row[LINE]), terms, tuple(films.get(str(row["uid"]), ()))
            )
        return
    for path in files:
        if path.suffix.casefold() == ".xml":
            report = _read_xml(path, path.relative_to(base).as_posix())
            if report is None:
                rejected.append(Rejection(path.relative_to(base).as_posix(), 0, "damaged"))
            else:
                yield report


def _read_xml(path: Path, name: str) -> _Report | None:
    try:
        tree = ElementTree.parse(path)
    except (OSError, ElementTree.ParseError):
        return None
    number = tree.find("uId")
    if number is None:
        return None
    films = [key for image in tree.iter("parentImage") if (key := _key(image.get("id", "")))]
    terms = _terms([term.text or "" for term in tree.iterfind("MeSH/major")])
    return _Report(number.get("id", "").removeprefix("CXR"), name, 0, terms, tuple(films))


def _terms(texts: list[str]) -> tuple[str, ...]:
    """Return MeSH terms without their qualifiers: Opacity of "Opacity/lung/base/left"."""
    return tuple(text.partition("/")[0].strip() for text in texts)


def _overall(terms: tuple[str, ...]) -> str:
    """Return the class of a report; "!" and a reason if it has none."""
    said = {term.casefold() for term in terms} - _NOT_INDEXED
    if not said:
        return "!label_missing"
    if "normal" in said:
        return "normal" if said == {"normal"} else "!label_contradictory"
    return "" if said <= _DEVICE_TERMS else "abnormal"


def _row(
    report: _Report, film: str, path: Path | None, view: str, laterals: bool, unknown_views: bool
) -> dict[str, Any] | str:
    if path is None:
        return "no_file"
    common = {
        "image_id": f"openi:{film}",
        "path": str(path),
        "source": "openi",
        "patient_id": f"openi:{report.number}",
        "study_id": f"openi:{report.number}",
        "image_wise": "",
        "site": "indiana",
        "licence": _LICENCE,
    }
    if path.suffix.casefold() == ".dcm":
        image = read_image(path, unknown_views=unknown_views or view == "unknown")
        return image if isinstance(image, str) else image.row(**common)
    if view == "L" and not laterals:
        return "lateral"
    if not view and not unknown_views:
        return "view_unknown"
    return common | {"view": view or "unknown"}
