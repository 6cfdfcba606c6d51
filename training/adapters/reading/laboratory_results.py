"""Read a table of test results, whatever a laboratory calls its columns and words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from cxr.errors import ManifestError
from cxr.labels import FINDINGS
from training.adapters.reading.join_laboratory_results import Result
from training.adapters.reading.result import Rejection
from training.adapters.reading.tables import LINE, read_table
from training.adapters.reading.values import date_of

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "sop_instance_uid": ("sop_instance_uid", "sopinstanceuid", "sop_uid"),
    "study_instance_uid": ("study_instance_uid", "studyinstanceuid", "study_uid"),
    "accession_number": ("accession_number", "accessionnumber", "accession"),
    "patient_id": ("patient_id", "patientid", "mrn"),
    "tested_at": ("tested_at", "tested_on", "test_date", "collected_at", "date"),
    "result": ("result", "test_result", "label", "pcr", "rt_pcr"),
    "site": ("site", "hospital"),
}
"""What a line may say, with the names that its column is known by; ``--column`` names others."""

POSITIVE = frozenset({"positive", "pos", "detected", "reactive", "yes", "true", "1", "+"})
NEGATIVE = frozenset({"negative", "neg", "not detected", "undetected", "non-reactive", "no", "false", "0", "-"})


def read_results(
    path: Path, rejected: list[Rejection], *, column: Mapping[str, str], words: Mapping[str, str], date_format: str
) -> list[Result]:
    """Read a table of results.

    Parameters
    ----------
    path
        A CSV file.
    rejected
        Lines that can't be used are added to it.
    column
        Our name of a column and the table's, where it is none of ``COLUMNS``.
    words
        The table's word for a result, in small letters, and its class.
    date_format
        As for ``date_of``.

    Raises
    ------
    ManifestError
        If there is no column with a result, or none that an image could be found by.
    """
    table = read_table(path, rejected, required=list(column.values()))
    names = _names(table, column)
    if "result" not in names or not set(names) - {"result", "tested_at", "site"}:
        known = "; ".join(f"{ours}: {', '.join(theirs)}" for ours, theirs in COLUMNS.items())
        raise ManifestError(
            f"The table {path.name} needs a result and a column to find the image by; known are {known}. Name others "
            "with --column OURS=THEIRS."
        )
    read = []
    for line, values in _lines(table, names):
        result = _result(line, values, words, date_format)
        if isinstance(result, str):
            rejected.append(Rejection(path.name, line, result))
        else:
            read.append(result)
    return read


def words_for(positive: str, negative: str, more: Mapping[str, str]) -> dict[str, str]:
    """Words of laboratories, and the class that each stands for.

    Parameters
    ----------
    positive, negative
        The two classes.
    more
        Class and word, as the command's ``--word`` has them; a word may be given for either.

    Returns
    -------
    dict[str, str]
        Word in small letters to class. Names of ``cxr.labels.FINDINGS`` stand for themselves.
    """
    known = {name: name for name in FINDINGS} | dict.fromkeys(POSITIVE, positive) | dict.fromkeys(NEGATIVE, negative)
    return known | {positive: positive, negative: negative} | {word.casefold(): ours for ours, word in more.items()}


def _names(table: pd.DataFrame, column: Mapping[str, str]) -> dict[str, str]:
    if unknown := [ours for ours in column if ours not in COLUMNS]:
        raise ManifestError(f"--column got {unknown[0]!r}; accepted are {', '.join(COLUMNS)}.")
    there = {re.sub(r"[\s-]+", "_", str(name)).casefold(): str(name) for name in table.columns}
    known = {
        ours: next(there[name] for name in names if name in there)
        for ours, names in COLUMNS.items()
        if any(name in there for name in names)
    }
    return known | dict(column)


def _lines(table: pd.DataFrame, names: Mapping[str, str]) -> Iterable[tuple[int, dict[str, str]]]:
    columns = [table[theirs] for theirs in names.values()]
    for line, *values in zip(table[LINE], *columns, strict=True):
        yield int(line), dict(zip(names, (str(value) for value in values), strict=True))


def _result(line: int, values: Mapping[str, str], words: Mapping[str, str], date_format: str) -> Result | str:
    label = words.get(values["result"].casefold())
    if label is None:
        return "label_unknown" if values["result"] else "label_missing"
    said = values.get("tested_at", "")
    tested_on = date_of(said, form=date_format) if said else None
    if said and tested_on is None:
        return "bad_date"
    keys = {name: values.get(name, "") for name in COLUMNS if name not in ("result", "tested_at")}
    return Result(line=line, label=label, tested_on=tested_on, **keys)
