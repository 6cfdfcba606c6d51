"""Read a table of test results, with the column names and words of many laboratories."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from cxr.errors import ManifestError
from cxr.labels import FINDINGS
from training.adapters.reading.join_laboratory_results import Result
from training.adapters.reading.result import Rejection
from training.adapters.reading.tables import LINE, read_table, unknown_words
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
"""Columns of a table of results, with their accepted names; ``--column`` adds others."""

POSITIVE = frozenset({"positive", "pos", "detected", "reactive", "yes", "true", "1", "+"})
NEGATIVE = frozenset({"negative", "neg", "not detected", "undetected", "non-reactive", "no", "false", "0", "-"})


def read_results(
    path: Path, rejected: list[Rejection], *, column: Mapping[str, str], words: Mapping[str, str], date_format: str,
    notes: list[str],
) -> list[Result]:  # fmt: skip
    """Read a table of results.

    Parameters
    ----------
    path
        A CSV file.
    rejected
        Lines that can't be used are added to it.
    column
        Key of ``COLUMNS`` to the table's name of the column, where it is none of the accepted names.
    words
        The table's word for a result, casefolded, to class.
    date_format
        As for ``date_of``.
    notes
        A sentence on unknown words is added to it.

    Raises
    ------
    ManifestError
        If there is no column of results, or none with a key of images.
    """
    table = read_table(path, rejected, required=list(column.values()))
    names = _names(table, column)
    if "result" not in names or not set(names) - {"result", "tested_at", "site"}:
        accepted = "; ".join(f"{ours}: {', '.join(theirs)}" for ours, theirs in COLUMNS.items())
        raise ManifestError(
            f"The table {path.name} needs a result and a column to find the image by; accepted are {accepted}. Name "
            "others with --column OURS=THEIRS."
        )
    results = []
    unknown = []
    for line, values in _lines(table, names):
        result = _result(line, values, words, date_format)
        if isinstance(result, str):
            rejected.append(Rejection(path.name, line, result))
            unknown += [values["result"]] if result == "label_unknown" else []
        else:
            results.append(result)
    notes += unknown_words(unknown, "--word CLASS=WORD")
    return results


def result_words(positive: str, negative: str, more: Mapping[str, str]) -> dict[str, str]:
    """Return the class of each word of laboratories.

    Parameters
    ----------
    positive, negative
        The two classes.
    more
        Class to word, from the command's option ``--word``.

    Returns
    -------
    dict[str, str]
        Casefolded word to class. Names of ``cxr.labels.FINDINGS`` are their own class.
    """
    words = {name: name for name in FINDINGS} | dict.fromkeys(POSITIVE, positive) | dict.fromkeys(NEGATIVE, negative)
    return words | {positive: positive, negative: negative} | {word.casefold(): ours for ours, word in more.items()}


def _names(table: pd.DataFrame, column: Mapping[str, str]) -> dict[str, str]:
    if unknown := [ours for ours in column if ours not in COLUMNS]:
        raise ManifestError(f"--column got {unknown[0]!r}; accepted are {', '.join(COLUMNS)}.")
    columns = {re.sub(r"[\s-]+", "_", str(name)).casefold(): str(name) for name in table.columns}
    names_of = {
        ours: next(columns[name] for name in names if name in columns)
        for ours, names in COLUMNS.items()
        if any(name in columns for name in names)
    }
    return names_of | dict(column)


def _lines(table: pd.DataFrame, names: Mapping[str, str]) -> Iterable[tuple[int, dict[str, str]]]:
    columns = [table[theirs] for theirs in names.values()]
    for line, *values in zip(table[LINE], *columns, strict=True):
        yield int(line), dict(zip(names, (str(value) for value in values), strict=True))


def _result(line: int, values: Mapping[str, str], words: Mapping[str, str], date_format: str) -> Result | str:
    label = words.get(values["result"].casefold())
    if label is None:
        return "label_unknown" if values["result"] else "label_missing"
    text = values.get("tested_at", "")
    tested_on = date_of(text, form=date_format) if text else None
    if text and tested_on is None and not (values.get("sop_instance_uid") or values.get("study_instance_uid")):
        return "bad_date"  # a line that names the image needs no date
    keys = {name: values.get(name, "") for name in COLUMNS if name not in ("result", "tested_at")}
    return Result(line=line, label=label, tested_on=tested_on, **keys)
