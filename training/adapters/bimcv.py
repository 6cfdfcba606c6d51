"""BIMCV-COVID19+ and BIMCV-COVID19-: 16-bit PNG of the stored values, DICOM attributes beside them.

The PNG holds the stored values of the original DICOM file, without window and inversion;
``--converted`` makes DICOM files of PNG and attributes, so that the service's preparation of pixels
applies. The same person can be in both collections under different numbers: ``listjoin_ok.tsv``
maps them.

References
----------
Vayá et al. 2020, "BIMCV COVID-19+", https://arxiv.org/abs/2006.01174; layout as in
https://github.com/BIMCV-CSUSP/BIMCV-COVID-19
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from cxr.errors import ManifestError
from training.adapters.reading.bimcv_dicom import convert
from training.adapters.reading.dataset_folder import all_files, dataset_folder
from training.adapters.reading.result import IndexResult, Rejection, ReportProgress, ignore_progress, index_result
from training.adapters.reading.tables import LINE, read_table
from training.adapters.reading.values import age_of, date_of, iso, sex_of

PARTS = {"covid19_posi": "covid19", "covid19_neg": "negative"}
"""Folders of the two collections, and the class of their images."""

_NAME = re.compile(r"(sub-S\d+)_(ses-E\d+).*?_(cr|dx)\.png", re.I)
_VIEW = re.compile(r"_vp-([a-z-]+?)_", re.I)
_VIEWS = {"pa": "PA", "ap": "AP", "ap-supine": "AP_supine", "ll": "L", "lat": "L", "rl": "L"}
_TESTS = "derivatives/EHR/sil_reg_covid_posi.tsv"
_EVERY = 500


def index(
    root: Path,
    *,
    converted: Annotated[str, "Folder for DICOM files made of PNG and attributes; default: none are made."] = "",
    days: Annotated[int, "Largest distance of a positive test and the image, where there is a table of tests."] = 14,
    ignore_tests: Annotated[bool, "Label every image of the positive collection covid19."] = False,
    unknown_views: Annotated[bool, "Take images without a projection in their name."] = False,
    laterals: Annotated[bool, "Take lateral views too."] = False,
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index one or both collections.

    Parameters
    ----------
    root
        The folder that holds ``covid19_posi`` and ``covid19_neg``, or one of them.
    converted, days, ignore_tests, unknown_views, laterals
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
        If the folder has neither collection.
    """
    outer = dataset_folder(root)
    parts = [(outer / name, label) for name, label in PARTS.items() if (outer / name).is_dir()]
    parts = parts or [(outer, label) for name, label in PARTS.items() if outer.name == name]
    if not parts:
        raise ManifestError(f"The folder {outer.name!r} has neither covid19_posi nor covid19_neg.")
    rejected: list[Rejection] = []
    same = _same_person(parts, rejected)
    rows: list[dict[str, Any]] = []
    for base, label in parts:
        tests = {} if ignore_tests or label != "covid19" else _positive_tests(base, rejected)
        people = _people(base, rejected)
        pictures = [path for path in all_files(base) if path.suffix.casefold() == ".png"]
        for number, path in enumerate(pictures, start=1):
            row = _row(path, base, label, people, same, tests, days)
            reason = (
                row if isinstance(row, str) else _rejection_reason(row, laterals=laterals, unknown_views=unknown_views)
            )
            if not isinstance(row, str) and not reason:
                reason = _resolve_pixels(row, path, outer / converted if converted else None)
            if isinstance(row, str) or reason:
                rejected.append(Rejection(path.relative_to(outer).as_posix(), 0, reason))
            else:
                rows.append(row)
            if number % _EVERY == 0 or number == len(pictures):
                watch(base.name, number, len(pictures))
    return index_result(rows, rejected, _notes(rows, same, converted))


def _notes(rows: list[dict[str, Any]], same: Mapping[str, str], converted: str) -> Iterator[str]:
    sources_of: dict[str, set[str]] = {}
    for row in rows:
        sources_of.setdefault(str(row["patient_id"]), set()).add(str(row["source"]))
    both = sum(1 for sources in sources_of.values() if len(sources) > 1)
    yield (
        f"{both} people are in both collections."
        if same
        else "Without listjoin_ok.tsv, people who are in both collections are unknown."
    )
    if not converted:
        yield "The PNG files hold stored values without window: dark pictures. --converted makes DICOM files of them."


def _same_person(parts: list[tuple[Path, str]], rejected: list[Rejection]) -> dict[str, str]:
    """Return the map of the negative collection's numbers to the positive one's; empty without the table."""
    for folder in (folder for base, _ in parts for folder in (base, base.parent)):
        path = folder / "listjoin_ok.tsv"
        if path.is_file():
            table = read_table(path, rejected, required=("covid19_neg", "covid19_posi"))
            return dict(zip(table["covid19_neg"].astype(str), table["covid19_posi"].astype(str), strict=True))
    return {}


def _people(base: Path, rejected: list[Rejection]) -> dict[str, tuple[str, str]]:
    """Return sex and age of each participant; empty without the table."""
    path = base / "participants.tsv"
    if not path.is_file():
        return {}
    table = read_table(path, rejected, required=("participant",), name=f"{base.name}/{path.name}")
    columns = (
        table[name].astype(str) if name in table else table[LINE].map(lambda _: "") for name in ("gender", "age")
    )
    return dict(zip(table["participant"].astype(str), zip(*columns, strict=True), strict=True))


def _positive_tests(base: Path, rejected: list[Rejection]) -> dict[str, list[date]]:
    """Return the days of each participant's positive tests; dates have the form 31.12.2020."""
    path = base / _TESTS
    if not path.is_file():
        return {}
    name = f"{base.name}/{_TESTS}"
    table = read_table(path, rejected, required=("participant", "date", "result"), name=name)
    tests: dict[str, list[date]] = {}
    for line, participant, when, result in zip(
        table[LINE], table["participant"], table["date"], table["result"], strict=True
    ):
        day = date_of(str(when))
        if day is None:
            rejected.append(Rejection(name, int(line), "bad_date"))
        elif str(result).upper() == "POSITIVO":
            tests.setdefault(str(participant), []).append(day)
    return tests


def _row(
    path: Path, base: Path, label: str, people: Mapping[str, tuple[str, str]], same: Mapping[str, str],
    tests: Mapping[str, list[date]], days: int,
) -> dict[str, Any] | str:  # fmt: skip
    """Return one picture's row, or the reason of its rejection."""
    matched = _NAME.fullmatch(path.name)
    if matched is None:
        return "not_radiograph"
    person, session = matched[1], matched[2]
    attributes = _attributes(path)
    if attributes is None:
        return "damaged"
    acquired_on = date_of(_first(attributes, "00080020"))
    if tests and not any(acquired_on and abs((acquired_on - day).days) <= days for day in tests.get(person, [])):
        return "outside_window"
    projection = _VIEW.search(path.name)
    sex, age = people.get(person, ("", ""))
    return {
        "image_id": f"bimcv:{base.name}/{path.relative_to(base).as_posix()}",
        "path": str(path),
        "source": f"bimcv-{base.name}",
        "patient_id": f"bimcv:{same.get(person, person) if label != 'covid19' else person}",
        "study_id": f"bimcv:{session}",
        "label": label,
        "label_covid19": float(label == "covid19"),
        "view": _VIEWS.get(projection[1].casefold() if projection else "", "unknown"),
        "sex": sex_of(_first(attributes, "00100040") or sex),
        "age": age_of(_first(attributes, "00101010") or age),
        "site": "bimcv",
        "manufacturer": _first(attributes, "00080070"),
        "model": _first(attributes, "00081090"),
        "acquired_on": iso(acquired_on),
        "licence": "BIMCV research use agreement",
    }


def _rejection_reason(row: Mapping[str, Any], *, laterals: bool, unknown_views: bool) -> str:
    if row["view"] == "L" and not laterals:
        return "lateral"
    return "view_unknown" if row["view"] == "unknown" and not unknown_views else ""


def _resolve_pixels(row: dict[str, Any], path: Path, target: Path | None) -> str:
    """Set the row's path to a converted file; return the reason of a rejection (an inverted PNG, or a damaged file)."""
    attributes = _attributes(path) or {}
    if target is None:
        return "monochrome1" if _first(attributes, "00280004") == "MONOCHROME1" else ""
    dicom_file = convert(path, attributes, target)
    if dicom_file is None:
        return "damaged"
    row["path"] = str(dicom_file)
    return ""


def _attributes(path: Path) -> dict[str, Any] | None:
    """Return the picture's DICOM attributes (PS3.18 Annex F); None if the file is missing or can't be read."""
    try:
        document = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _first(attributes: Mapping[str, Any], tag: str) -> str:
    """Return the first value of an attribute as text; empty without a value."""
    try:
        value = attributes[tag]["Value"][0]
    except (KeyError, IndexError, TypeError):
        return ""
    return str(value).strip() if isinstance(value, str | int | float) else ""
