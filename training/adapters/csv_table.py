"""Any CSV with one line per image: columns are mapped to the manifest's by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import pandas as pd

from cxr.errors import ManifestError
from training.adapters.reading.dataset_folder import exist, folder
from training.adapters.reading.result import Indexed, Rejection, ReportProgress, indexed, pairs, silent
from training.adapters.reading.tables import LINE, read_table, the_table
from training.adapters.reading.values import age_of, date_of, iso, sex_of, view_of
from training.cases import COLUMNS, LABEL_PREFIX

_FREE = ("source", "patient_id", "study_id", "label", "site", "manufacturer", "model", "licence", "split", "note")


def index(
    root: Path,
    *,
    table: Annotated[str, "The CSV file; default: the only one in the folder."] = "",
    column: Annotated[tuple[str, ...], "A manifest's column and the CSV's, e.g. label=finding."] = (),
    label: Annotated[tuple[str, ...], "A class and the word for it in the CSV, e.g. covid19=COVID-19."] = (),
    where: Annotated[tuple[str, ...], "Take only lines with this value, e.g. is_frontal=yes."] = (),
    source: Annotated[str, "Where the images are from, if no column says so."] = "",
    image_wise_source: Annotated[tuple[str, ...], "A source whose patient IDs are not certain."] = (),
    date_format: Annotated[str, "Form of dates, e.g. %d/%m/%Y; default: ISO 8601 or YYYYMMDD."] = "",
    laterals: Annotated[bool, "Take lateral views too."] = False,
    watch: ReportProgress = silent,
) -> Indexed:
    """Index any CSV.

    Parameters
    ----------
    root
        The folder that paths in the CSV count from.
    table, column, label, where, source, image_wise_source, date_format, laterals
        See their help.
    watch
        Told how far it is.

    Returns
    -------
    Indexed
        Columns of the CSV that have a manifest's name are taken as that; others need ``column``.

    Raises
    ------
    ManifestError
        If the file is not found, or lacks a column that was named.
    """
    base = folder(root)
    file = the_table(base, table)
    mapping = pairs(column, "--column")
    conditions = pairs(where, "--where")
    rejected: list[Rejection] = []
    read = read_table(file, rejected, required=[*mapping.values(), *conditions])
    watch("read", len(read), len(read))
    cases = _renamed(read, mapping)
    if "path" not in cases:
        raise ManifestError(f"No column of {file.name} is named path; say which is: --column path=NAME.")
    cases["path"] = [os.path.join(base, value) if value else "" for value in cases["path"]]  # noqa: PTH118
    reason = _judge(read, cases, conditions, laterals=laterals)
    converted, malformed = _converted(cases, pairs(label, "--label"), date_format)
    reason = reason.where(reason != "", malformed)
    missing = (reason == "") & ~exist(cases["path"])
    reason = reason.mask(missing, "no_file").mask((reason == "") & (cases["path"].duplicated()), "duplicate")
    rejected += [Rejection(file.name, int(n), why) for n, why in zip(read[LINE], reason, strict=True) if why]
    taken = converted[reason == ""].copy()
    _complete(taken, base, source=source or file.stem, image_wise=set(image_wise_source))
    watch("checked", len(read), len(read))
    return indexed(taken, rejected)


def _renamed(read: pd.DataFrame, mapping: dict[str, str]) -> pd.DataFrame:
    accepted = set(COLUMNS)
    if unknown := [ours for ours in mapping if ours not in accepted and not ours.startswith(LABEL_PREFIX)]:
        raise ManifestError(f"--column got {unknown[0]!r}; accepted are {', '.join(COLUMNS)} and label_<finding>.")
    same = {name: name for name in read.columns if name in accepted or _holds_a_finding(read, name)}
    return pd.DataFrame({ours: read[theirs] for ours, theirs in (same | mapping).items()})


def _holds_a_finding(read: pd.DataFrame, name: str) -> bool:
    """Whether a column that nobody mapped is a manifest's ``label_<finding>``, and not another word with label."""
    return name.startswith(LABEL_PREFIX) and bool(read[name].isin(("", "1", "0", "-1", "1.0", "0.0", "-1.0")).all())


def _judge(read: pd.DataFrame, cases: pd.DataFrame, conditions: dict[str, str], *, laterals: bool) -> pd.Series:
    reason = pd.Series("", index=read.index)
    for name, value in conditions.items():
        reason = reason.mask((reason == "") & (read[name] != value), "filtered")
    views = cases["view"].map(view_of) if "view" in cases else pd.Series("unknown", index=cases.index)
    reason = reason.mask((reason == "") & (views == "L") & (not laterals), "lateral")
    reason = reason.mask((reason == "") & views.isna(), "not_radiograph")
    return reason.mask(cases["path"] == "", "no_path")


def _converted(cases: pd.DataFrame, label: dict[str, str], date_format: str) -> tuple[pd.DataFrame, pd.Series]:
    """Values as a manifest has them, and for each line why one of its values is none."""
    result = cases.copy()
    reason = pd.Series("", index=cases.index)
    if "label" in result:
        words = {theirs: ours for ours, theirs in label.items()}
        result["label"] = cases["label"].map({word: words.get(word, word) for word in cases["label"].unique()})
        reason = reason.mask(~result["label"].str.fullmatch(r"[a-z][a-z0-9_]*|"), "label_unknown")
    if "view" in result:
        result["view"] = cases["view"].map(lambda text: view_of(text) or "unknown")
    if "sex" in result:
        result["sex"] = cases["sex"].map(sex_of)
    if "age" in result:
        result["age"] = pd.Series([age_of(text) for text in cases["age"]], index=cases.index, dtype=float)
        reason = reason.mask((cases["age"] != "") & result["age"].isna(), "bad_age")
    if "acquired_on" in result:
        result["acquired_on"] = cases["acquired_on"].map(lambda text: iso(date_of(text, form=date_format)))
        reason = reason.mask((cases["acquired_on"] != "") & (result["acquired_on"] == ""), "bad_date")
    for name in (name for name in result if str(name).startswith(LABEL_PREFIX)):
        result[name] = pd.to_numeric(cases[name].replace("", None), errors="coerce").astype(float)
        reason = reason.mask((cases[name] != "") & ~result[name].isin((1, 0, -1)), "bad_finding")
    return result, reason


def _complete(cases: pd.DataFrame, base: Path, *, source: str, image_wise: set[str]) -> None:
    """Fill in what the CSV did not say."""
    for name in _FREE:
        if name not in cases:
            cases[name] = ""
    cases["source"] = cases["source"].where(cases["source"] != "", source)
    if "image_id" not in cases:
        prefix = os.path.join(base, "")  # noqa: PTH118
        cases["image_id"] = cases["source"] + ":" + cases["path"].str.removeprefix(prefix)
    uncertain = (cases["patient_id"] == "") | cases["source"].isin(image_wise)
    if "image_wise" in cases:
        uncertain |= cases["image_wise"] == "yes"
    cases["image_wise"] = uncertain.map({True: "yes", False: ""})
    if "mask_path" in cases:
        cases["mask_path"] = [os.path.join(base, value) if value else "" for value in cases["mask_path"]]  # noqa: PTH118
