"""The manifest: a CSV file with one row per image, the only description of a data set in training.

Adapters (``training.adapters``) write it; splits, audit, cache, training and evaluation read nothing
else. docs/manifests.md explains the columns.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
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
"""Columns of every manifest, in this order, followed by any number of ``label_<finding>``."""

REQUIRED = ("image_id", "path")
NUMBERS = ("age", "weight")
VIEWS = ("PA", "AP", "AP_supine", "L", "unknown")
"""Projections; ``unknown``: frontal, PA or AP not recorded."""

SEXES = ("M", "F", "")
SPLITS = ("train", "val", "test")
LABEL_PREFIX = "label_"
MAX_AGE = 120  # years
NO_PATIENT = frozenset({"nan", "none", "null", "<na>", "n/a"})
"""What programs write for a patient that is not known."""

_DEFAULTS: Mapping[str, str] = {"view": "unknown", "weight": "1"}
_LABEL = re.compile(r"[a-z][a-z0-9_]*")
_DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
_ONE_LINE = re.compile(r"[\r\n\0]+")


def label_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns of single findings: 1 present, 0 absent, -1 uncertain, NaN not labelled."""
    return [name for name in frame.columns if str(name).startswith(LABEL_PREFIX)]


def complete(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the missing columns of a manifest to a table of cases; order, convert and check all columns.

    Parameters
    ----------
    frame
        Columns among ``COLUMNS`` and ``label_<finding>``, with those of ``REQUIRED``.

    Returns
    -------
    pandas.DataFrame
        Texts as ``str`` (empty: unknown), numbers and findings as ``float64`` (NaN: unknown).

    Raises
    ------
    ManifestError
        If a column is missing or unknown, or a value is not accepted; the message has the row's
        number, counted from 0.
    """
    return _complete_and_check(frame, locate=lambda row: f"row {row}")


def read_manifest(path: Path) -> pd.DataFrame:
    """Read and check a manifest.

    Parameters
    ----------
    path
        A CSV file in UTF-8. Relative paths in it start from its folder (``resolve_paths``).

    Returns
    -------
    pandas.DataFrame
        As ``complete`` returns it, in the order of the file.

    Raises
    ------
    ManifestError
        If it can't be read, or a value is not accepted; the message has line and column.
    """
    try:
        _refuse_other_fields(path)
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except (OSError, UnicodeError, ValueError, csv.Error) as error:  # pandas' parser errors are ValueErrors
        raise ManifestError(
            f"The manifest {path.name} can't be read ({type(error).__name__}); accepted is a CSV file in UTF-8 with a "
            "header line, as `cxr train index` writes it."
        ) from error
    return _complete_and_check(frame.fillna(""), locate=lambda row: f"line {line_of(path, row)} of {path.name}")


def _refuse_other_fields(path: Path) -> None:
    """Refuse a line whose fields are not those of the header line; pandas fills or moves them silently."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        for fields in reader:
            if fields and (len(fields) != len(header) or fields == header):
                fault = "a second header line" if fields == header else f"{len(fields)} fields"
                raise ManifestError(
                    f"Line {reader.line_num} of {path.name} has {fault}, the header line {len(header)} columns: the "
                    "lines are of two tables. Join manifests by the names of their columns with `cxr train merge`."
                )


def write_manifest(frame: pd.DataFrame, path: Path) -> None:
    """Check a manifest and write it as an atomic file with mode 0600: it holds identifiers of patients.

    Parameters
    ----------
    frame
        A table that ``complete`` accepts.
    path
        The file to write; an existing one is replaced.

    Raises
    ------
    ManifestError
        If the table is not a manifest, or can't be written.
    """
    table = complete(frame)
    for name in NUMBERS + tuple(label_columns(table)):
        table[name] = _format_numbers(table[name])
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
        The folder that relative paths start from: the manifest's.
    """
    prefix = os.path.join(os.path.abspath(base), "")  # noqa: PTH100, PTH118 (doesn't resolve links; ends with /)
    resolved = frame.copy()
    for name in ("path", "mask_path"):
        values = resolved[name]
        is_relative = (values != "") & ~values.str.startswith(os.sep)
        resolved[name] = values.where(~is_relative, prefix + values)
    return resolved


def relative_paths(frame: pd.DataFrame, base: Path) -> pd.DataFrame:
    """Make paths under ``base`` relative to it; leave the others unchanged."""
    prefix = os.path.join(os.path.abspath(base), "")  # noqa: PTH100, PTH118
    changed = frame.copy()
    for name in ("path", "mask_path"):
        if name in changed:
            changed[name] = changed[name].str.removeprefix(prefix)
    return changed


def line_of(path: Path, row: int) -> int:
    """Return the line of a CSV file in which a row ends; rows are counted from 0, without the header."""
    return next(islice(_lines(path), row, None), 0)


def lines_of(path: Path) -> list[int]:
    """Return for each row of a readable CSV file, without the header, the line in which it ends."""
    return list(_lines(path))


def _lines(path: Path) -> Iterator[int]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)  # quoted fields may contain line breaks
        rows = (reader.line_num for fields in reader if fields)  # an empty line is no row
        next(rows, None)  # nor is the header
        yield from rows


def _complete_and_check(frame: pd.DataFrame, locate: Callable[[int], str]) -> pd.DataFrame:
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
        table[name] = _numbers(values, name, default, locate) if is_number else _texts(values, default)
    _check_values(table, locate)
    return table


def _texts(values: pd.Series, default: str) -> pd.Series:
    texts = values.fillna("").astype(str)
    if texts.str.contains(_ONE_LINE).any():
        texts = texts.str.replace(_ONE_LINE, " ", regex=True)
    texts = texts.str.strip()
    return texts.where(texts != "", default) if default else texts


def _numbers(values: pd.Series, name: str, default: str, locate: Callable[[int], str]) -> pd.Series:
    texts = values.replace("", default or None).astype(object)
    numbers = pd.to_numeric(texts, errors="coerce").astype("float64")
    _refuse(
        numbers.isna() & texts.notna() & (texts != default),
        locate,
        f"{name} is not a number; accepted is a number, or nothing",
    )
    return numbers.fillna(float(default)) if default else numbers


def _format_numbers(numbers: pd.Series) -> pd.Series:
    """Format numbers without trailing zeros (64, not 64.0), NaN as an empty text."""
    texts = {value: "" if value != value else f"{value:.10g}" for value in numbers.unique()}
    return numbers.map(texts).fillna("").astype(str)


def _check_values(table: pd.DataFrame, locate: Callable[[int], str]) -> None:
    for name in REQUIRED:
        _refuse(table[name] == "", locate, f"{name} is empty; every image needs one")
    _refuse(table["image_id"].duplicated(), locate, "image_id occurs a second time; each image needs its own")
    for name, accepted in (("view", VIEWS), ("sex", SEXES), ("split", (*SPLITS, "")), ("image_wise", ("yes", ""))):
        words = ", ".join(word or "nothing" for word in accepted)
        _refuse(
            ~table[name].isin(accepted),
            locate,
            f"{name} is not one of {words}",
            shown=table[name] if name != "sex" else None,
        )
    is_label = (table["label"] == "") | table["label"].str.fullmatch(_LABEL.pattern)
    fault = "label is not a class name; accepted are lower-case letters, digits and _"
    _refuse(~is_label, locate, fault, shown=table["label"])
    is_date = (table["acquired_on"] == "") | table["acquired_on"].str.fullmatch(_DATE.pattern)
    _refuse(~is_date, locate, "acquired_on is not a date; accepted is YYYY-MM-DD")
    _refuse((table["age"] < 0) | (table["age"] > MAX_AGE), locate, f"age is not within 0 to {MAX_AGE} years")
    is_weight = (table["weight"] >= 0) & (table["weight"] < float("inf"))
    _refuse(~is_weight, locate, "weight is not a finite number of at least 0")
    for name in label_columns(table):
        _refuse(~(table[name].isna() | table[name].isin((1, 0, -1))), locate, f"{name} is not 1, 0, -1 or nothing")
    is_word = table["patient_id"].str.casefold().isin(NO_PATIENT)
    _refuse(is_word, locate, "patient_id is a word for no patient (nan, none, null); leave it empty, image_wise yes")
    is_anonymous = (table["patient_id"] == "") & (table["image_wise"] != "yes")
    _refuse(is_anonymous, locate, "patient_id is empty; without one, image_wise must be yes")


def _refuse(is_wrong: pd.Series, locate: Callable[[int], str], fault: str, *, shown: pd.Series | None = None) -> None:
    """Raise if a row is wrong; ``shown``: the values, where they are no patient's."""
    if is_wrong.any():
        first = int(is_wrong.to_numpy(dtype=bool).argmax())
        more = int(is_wrong.sum()) - 1
        value = "" if shown is None else f"; got {str(shown.iloc[first])[:40]!r}"
        raise ManifestError(f"In {locate(first)}, {fault}{value}{f' (and {more} more rows like it)' if more else ''}.")
