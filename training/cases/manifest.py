"""The manifest: a CSV with one row per image, all that training knows of a data set.

Whatever the data set, an adapter makes this table of it (``training.adapters``); splits, audit,
cache, training and evaluation read nothing else. docs/manifests.md explains the columns.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from cxr.errors import ManifestError
from training.files import write_whole

COLUMNS = (
    "image_id",
    "path",
    "source",
    "patient_id",
    "study_id",
    "label",
    "view",
    "sex",
    "age",
    "site",
    "manufacturer",
    "model",
    "acquired_on",
    "mask_path",
    "image_wise",
    "licence",
    "split",
    "weight",
    "note",
)
"""Columns of every manifest, in this order; after them, any number of ``label_<finding>``."""

REQUIRED = ("image_id", "path")
NUMBERS = ("age", "weight")
VIEWS = ("PA", "AP", "AP_supine", "L", "unknown")
"""Projections; ``unknown`` is a frontal image of which nobody says whether PA or AP."""

SEXES = ("M", "F", "")
SPLITS = ("train", "val", "test")
LABEL_PREFIX = "label_"
MAX_AGE = 120  # years

_DEFAULTS: Mapping[str, str] = {"view": "unknown", "weight": "1"}
_LABEL = re.compile(r"[a-z][a-z0-9_]*")
_DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
_ONE_LINE = re.compile(r"[\r\n\0]+")


def label_columns(frame: pd.DataFrame) -> list[str]:
    """Names of the columns that hold single findings: 1 yes, 0 no, -1 uncertain, NaN not said."""
    return [name for name in frame.columns if str(name).startswith(LABEL_PREFIX)]


def complete(frame: pd.DataFrame) -> pd.DataFrame:
    """Give a table of cases every column of a manifest, in order and of the right type.

    Parameters
    ----------
    frame
        Some of ``COLUMNS`` and ``label_<finding>``; others are an error.

    Returns
    -------
    pandas.DataFrame
        Texts as ``str`` (empty: unknown), numbers and findings as ``float64`` (NaN: unknown).

    Raises
    ------
    ManifestError
        If a column is missing or unknown, or a value is not accepted; the row is named by its
        number, counted from 0.
    """
    return _checked(frame, place=lambda row: f"row {row}")


def read_manifest(path: Path) -> pd.DataFrame:
    """Read and check a manifest.

    Parameters
    ----------
    path
        A CSV file in UTF-8. Relative paths in it count from its folder (``resolve_paths``).

    Returns
    -------
    pandas.DataFrame
        As from ``complete``, in the file's order.

    Raises
    ------
    ManifestError
        If it can't be read, or a value is not accepted; the message names line and column.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, UnicodeError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise ManifestError(
            f"The manifest {path.name} can't be read ({type(error).__name__}); accepted is a CSV file in UTF-8 with a "
            "header line, as `cxr train index` writes it."
        ) from error
    return _checked(frame.fillna(""), place=lambda row: f"line {line_of(path, row)} of {path.name}")


def write_manifest(frame: pd.DataFrame, path: Path) -> None:
    """Check and write a manifest; the file is there whole, or not at all.

    It holds patients' identifiers: only its owner can read it.

    Parameters
    ----------
    frame
        As ``complete`` takes it.
    path
        The file to write; it is replaced if it exists.

    Raises
    ------
    ManifestError
        If the table is not a manifest, or can't be written.
    """
    table = complete(frame)
    for name in NUMBERS + tuple(label_columns(table)):
        table[name] = _written(table[name])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, table.to_csv(index=False, lineterminator="\n"), private=True)
    except OSError as error:
        raise ManifestError(
            f"The manifest {path.name} can't be written ({type(error).__name__}: {error.strerror}); choose a folder "
            "that you may write to, with space left."
        ) from error


def resolve_paths(frame: pd.DataFrame, base: Path) -> pd.DataFrame:
    """Make the paths of images and masks absolute.

    Parameters
    ----------
    frame
        A manifest.
    base
        The folder that relative paths count from: the manifest's.
    """
    prefix = os.path.join(os.path.abspath(base), "")  # noqa: PTH100, PTH118 (links stay as they are; ends with /)
    resolved = frame.copy()
    for name in ("path", "mask_path"):
        values = resolved[name]
        is_relative = (values != "") & ~values.str.startswith(os.sep)
        resolved[name] = values.where(~is_relative, prefix + values)
    return resolved


def relative_paths(frame: pd.DataFrame, base: Path) -> pd.DataFrame:
    """Make paths that lie under a folder relative to it; the others stay as they are."""
    prefix = os.path.join(os.path.abspath(base), "")  # noqa: PTH100, PTH118
    changed = frame.copy()
    for name in ("path", "mask_path"):
        if name in changed:
            changed[name] = changed[name].str.removeprefix(prefix)
    return changed


def line_of(path: Path, row: int) -> int:
    """Say in which line of a CSV file a row ends; quoted fields may hold line breaks.

    Parameters
    ----------
    path
        A CSV file that could be read.
    row
        Counted from 0, the header line aside.
    """
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        seen = -1  # the header; empty lines are no rows
        for fields in reader:
            seen += bool(fields)
            if seen > row:
                return reader.line_num
    return 0


def _checked(frame: pd.DataFrame, place: Callable[[int], str]) -> pd.DataFrame:
    names = [str(name) for name in frame.columns]
    if missing := [name for name in REQUIRED if name not in names]:
        raise ManifestError(f"The manifest lacks the column {', '.join(missing)}; make it with `cxr train index`.")
    findings = [name for name in names if name.startswith(LABEL_PREFIX)]
    if unknown := sorted(set(names) - set(COLUMNS) - set(findings)):
        raise ManifestError(
            f"The manifest has the unknown column {unknown[0]!r}; accepted are {', '.join(COLUMNS)} and "
            "label_<finding>: rename or remove it (`cxr train index csv --column OURS=THEIRS` maps names)."
        )
    table = pd.DataFrame(index=pd.RangeIndex(len(frame)))
    for name in (*COLUMNS, *findings):
        default = _DEFAULTS.get(name, "")
        values = frame[name].reset_index(drop=True) if name in names else pd.Series(default, index=table.index)
        is_number = name in NUMBERS or name in findings
        table[name] = _numbers(values, name, default, place) if is_number else _texts(values, default)
    _check_values(table, place)
    return table


def _texts(values: pd.Series, default: str) -> pd.Series:
    texts = values.fillna("").astype(str)
    if texts.str.contains(_ONE_LINE).any():
        texts = texts.str.replace(_ONE_LINE, " ", regex=True)
    texts = texts.str.strip()
    return texts.where(texts != "", default) if default else texts


def _numbers(values: pd.Series, name: str, default: str, place: Callable[[int], str]) -> pd.Series:
    filled = values.replace("", default or None).astype(object)
    numbers = pd.to_numeric(filled, errors="coerce").astype("float64")
    _refuse(
        numbers.isna() & filled.notna() & (filled != default),
        place,
        f"{name} is not a number; accepted is a number, or nothing",
    )
    return numbers.fillna(float(default)) if default else numbers


def _written(numbers: pd.Series) -> pd.Series:
    """Numbers as people write them: 64, not 64.0; nothing for NaN."""
    texts = {value: "" if value != value else f"{value:.10g}" for value in numbers.unique()}
    return numbers.map(texts).fillna("").astype(str)


def _check_values(table: pd.DataFrame, place: Callable[[int], str]) -> None:
    for name in REQUIRED:
        _refuse(table[name] == "", place, f"{name} is empty; every image has one")
    _refuse(table["image_id"].duplicated(), place, "image_id occurs a second time; each image has its own")
    for name, accepted in (("view", VIEWS), ("sex", SEXES), ("split", (*SPLITS, "")), ("image_wise", ("yes", ""))):
        words = ", ".join(word or "nothing" for word in accepted)
        _refuse(~table[name].isin(accepted), place, f"{name} is not one of {words}")
    is_label = (table["label"] == "") | table["label"].str.fullmatch(_LABEL.pattern)
    _refuse(~is_label, place, "label is not a name of a class; accepted are lower-case letters, digits and _")
    is_date = (table["acquired_on"] == "") | table["acquired_on"].str.fullmatch(_DATE.pattern)
    _refuse(~is_date, place, "acquired_on is not a date; accepted is YYYY-MM-DD")
    _refuse((table["age"] < 0) | (table["age"] > MAX_AGE), place, f"age is not within 0 to {MAX_AGE} years")
    is_weight = (table["weight"] >= 0) & (table["weight"] < float("inf"))
    _refuse(~is_weight, place, "weight is not a finite number of at least 0")
    for name in label_columns(table):
        _refuse(~(table[name].isna() | table[name].isin((1, 0, -1))), place, f"{name} is not 1, 0, -1 or nothing")
    is_anonymous = (table["patient_id"] == "") & (table["image_wise"] != "yes")
    _refuse(is_anonymous, place, "patient_id is empty; without one, image_wise must say yes")


def _refuse(is_wrong: pd.Series, place: Callable[[int], str], fault: str) -> None:
    if is_wrong.any():
        first = int(is_wrong.to_numpy(dtype=bool).argmax())
        more = int(is_wrong.sum()) - 1
        raise ManifestError(f"In {place(first)}, {fault}{f' (and {more} more rows like it)' if more else ''}.")
