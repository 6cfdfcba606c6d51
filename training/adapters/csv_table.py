"""A CSV with one line per image, whose columns are mapped to the manifest's by name."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import pandas as pd

from cxr.errors import ManifestError
from cxr.labels import FINDINGS
from training.adapters.reading.dataset_folder import all_files, dataset_folder, files_exist
from training.adapters.reading.result import (
    IndexResult,
    Rejection,
    ReportProgress,
    ignore_progress,
    index_result,
    parse_pairs,
)
from training.adapters.reading.tables import LINE, find_table, read_table, unknown_words, unread
from training.adapters.reading.values import age_of, date_of, iso, sex_of, view_of
from training.cases import COLUMNS, LABEL_PREFIX, NO_PATIENT

_FREE = ("source", "patient_id", "study_id", "label", "site", "manufacturer", "model", "licence", "split", "note")


def index(
    root: Path,
    *,
    table: Annotated[str, "The CSV file; default: the only one in the folder."] = "",
    column: Annotated[tuple[str, ...], "A manifest's column and the CSV's, e.g. label=finding."] = (),
    label: Annotated[tuple[str, ...], "A class and the CSV's word for it, e.g. covid19=COVID-19."] = (),
    split_labels: Annotated[str, "What separates several labels in a line, e.g. |: each becomes a finding."] = "",
    where: Annotated[tuple[str, ...], "Take only lines with this value, e.g. is_frontal=yes."] = (),
    source: Annotated[str, "Source of the images, where no column names it."] = "",
    image_wise_source: Annotated[tuple[str, ...], "A source whose patient IDs are not certain."] = (),
    date_format: Annotated[str, "Form of dates, e.g. %d/%m/%Y; default: ISO 8601 or YYYYMMDD."] = "",
    prefix: Annotated[
        str, "What patient, study and image IDs begin with, so that collections stay apart, e.g. nih:."
    ] = "",
    search: Annotated[bool, "Look in subfolders for an image that is not at its path, by its name."] = False,
    laterals: Annotated[bool, "Take lateral views too."] = False,
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index any CSV.

    Parameters
    ----------
    root
        The folder that paths in the CSV are relative to.
    table, column, label, split_labels, where, source, image_wise_source, date_format, prefix, search, laterals
        See their help.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        Columns of the CSV with a name of the manifest's are used as such; others need ``column``. With
        ``split_labels`` an image has a column for every label of the table, and ``label`` where it has one only.

    Raises
    ------
    ManifestError
        If there is no such file, or it lacks a column of the options.
    """
    base = dataset_folder(root)
    file = find_table(base, table)
    mapping = parse_pairs(column, "--column")
    conditions = parse_pairs(where, "--where")
    rejected: list[Rejection] = []
    lines = read_table(file, rejected, required=[*mapping.values(), *conditions])
    watch("read", len(lines), len(lines))
    cases = _rename(lines, mapping)
    if "path" not in cases:
        raise ManifestError(f"No column of {file.name} is named path: name it with --column path=NAME.")
    cases["path"] = [os.path.join(base, value) if value else "" for value in cases["path"]]  # noqa: PTH118
    reason = _reject(lines, cases, conditions, laterals=laterals)
    words = parse_pairs(label, "--label")
    notes: list[str] = []
    if split_labels and "label" in cases:
        cases = _split_labels(cases, split_labels, words)
        notes += _describe_unknown(cases)
        words = {}
    converted, malformed = _convert(cases, words, date_format)
    reason = reason.where(reason != "", malformed)
    notes += unread(lines[LINE], cases, converted, taken=reason == "")
    if "label" in cases:
        notes += unknown_words(converted["label"][reason == "label_unknown"], "--label CLASS=WORD")
    missing = (reason == "") & ~files_exist(cases["path"])
    if search and missing.any():
        found, why = _search(base, cases.loc[missing, "path"])
        cases.loc[missing, "path"] = converted.loc[missing, "path"] = found
        reason = reason.mask(missing, why)
        missing &= False
    reason = reason.mask(missing, "no_file").mask((reason == "") & (cases["path"].duplicated()), "duplicate")
    rejected += [Rejection(file.name, int(n), why) for n, why in zip(lines[LINE], reason, strict=True) if why]
    accepted = converted[reason == ""].copy()
    _complete(accepted, base, source=source or file.stem, image_wise=set(image_wise_source))
    _add_prefix(accepted, prefix)
    watch("checked", len(lines), len(lines))
    return index_result(accepted, rejected, notes)


def _rename(lines: pd.DataFrame, mapping: dict[str, str]) -> pd.DataFrame:
    accepted = set(COLUMNS)
    if unknown := [ours for ours in mapping if ours not in accepted and not ours.startswith(LABEL_PREFIX)]:
        raise ManifestError(f"--column got {unknown[0]!r}; accepted are {', '.join(COLUMNS)} and label_<finding>.")
    same = {name: name for name in lines.columns if name in accepted or _is_finding(lines, name)}
    return pd.DataFrame({ours: lines[theirs] for ours, theirs in (same | mapping).items()})


def _is_finding(lines: pd.DataFrame, name: str) -> bool:
    """Return whether an unmapped column is a manifest's ``label_<finding>``, by its name and its values."""
    return name.startswith(LABEL_PREFIX) and bool(lines[name].isin(("", "1", "0", "-1", "1.0", "0.0", "-1.0")).all())


def _split_labels(cases: pd.DataFrame, separator: str, words: dict[str, str]) -> pd.DataFrame:
    """Return the cases with a column for each label: 1 where the line has it, 0 where it has others."""
    ours = {theirs: name for name, theirs in words.items()}
    terms = {
        text: {ours.get(word, _slug(word)) for part in text.split(separator) if (word := part.strip())}
        for text in cases["label"].unique()
    }
    rows = {text: {LABEL_PREFIX + name: "1" for name in names} for text, names in terms.items()}
    columns = sorted(set().union(*rows.values())) if rows else []
    is_labelled = cases["label"].map({text: bool(names) for text, names in terms.items()})
    added = pd.DataFrame([rows[text] for text in cases["label"]], index=cases.index, columns=columns).fillna("0")
    single = {text: next(iter(names)) if len(names) == 1 else "" for text, names in terms.items()}
    others = cases.drop(columns=[name for name in columns if name in cases])
    return pd.concat([others.assign(label=cases["label"].map(single)), added.where(is_labelled, "")], axis=1)


def _slug(word: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", word.casefold()).strip("_")


def _describe_unknown(cases: pd.DataFrame) -> list[str]:
    """Return a sentence on columns that are no known finding."""
    names = [name.removeprefix(LABEL_PREFIX) for name in map(str, cases) if name.startswith(LABEL_PREFIX)]
    unknown = [name for name in names if name not in FINDINGS]
    if not unknown:
        return []
    return [
        f"Unknown findings: {', '.join(unknown)}. Name them by --label FINDING=WORD (docs/conformance.md lists them), "
        "or define them in the recipe, as task.findings."
    ]


def _search(base: Path, paths: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Return where images are, by their names, and the reasons for those that are nowhere or in several folders."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in all_files(base):
        places[path.name].append(str(path))
    found = [places.get(os.path.basename(path), []) for path in paths]  # noqa: PTH119 (a million texts)
    reasons = {0: "no_file", 1: ""}
    return (
        pd.Series([each[0] if len(each) == 1 else path for each, path in zip(found, paths, strict=True)], paths.index),
        pd.Series([reasons.get(len(each), "several_files") for each in found], paths.index),
    )


def _add_prefix(cases: pd.DataFrame, prefix: str) -> None:
    """Begin identifiers with a prefix, as the adapters of the known collections do."""
    for name in ("patient_id", "study_id"):
        cases[name] = (prefix + cases[name]).where(cases[name] != "", "")
    cases["image_id"] = prefix + cases["image_id"]


def _reject(lines: pd.DataFrame, cases: pd.DataFrame, conditions: dict[str, str], *, laterals: bool) -> pd.Series:
    """Return for each line the reason of its rejection, or an empty text."""
    reason = pd.Series("", index=lines.index)
    for name, value in conditions.items():
        reason = reason.mask((reason == "") & (lines[name] != value), "filtered")
    views = cases["view"].map(view_of) if "view" in cases else pd.Series("unknown", index=cases.index)
    reason = reason.mask((reason == "") & (views == "L") & (not laterals), "lateral")
    reason = reason.mask((reason == "") & views.isna(), "not_radiograph")
    return reason.mask(cases["path"] == "", "no_path")


def _convert(cases: pd.DataFrame, label: dict[str, str], date_format: str) -> tuple[pd.DataFrame, pd.Series]:
    """Return the cases with a manifest's values, and for each line the reason of its rejection, or an empty text.

    An age or a date that can't be read is left empty: they are optional.
    """
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
    if "acquired_on" in result:
        result["acquired_on"] = cases["acquired_on"].map(lambda text: iso(date_of(text, form=date_format)))
    for name in (name for name in result if str(name).startswith(LABEL_PREFIX)):
        result[name] = pd.to_numeric(cases[name].replace("", None), errors="coerce").astype(float)
        reason = reason.mask((cases[name] != "") & ~result[name].isin((1, 0, -1)), "bad_finding")
    return result, reason


def _complete(cases: pd.DataFrame, base: Path, *, source: str, image_wise: set[str]) -> None:
    """Fill in columns that the CSV lacks."""
    for name in _FREE:
        if name not in cases:
            cases[name] = ""
    cases["source"] = cases["source"].where(cases["source"] != "", source)
    if "image_id" not in cases:
        prefix = os.path.join(base, "")  # noqa: PTH118
        cases["image_id"] = cases["source"] + ":" + cases["path"].str.removeprefix(prefix)
    cases["patient_id"] = cases["patient_id"].mask(cases["patient_id"].str.casefold().isin(NO_PATIENT), "")
    uncertain = (cases["patient_id"] == "") | cases["source"].isin(image_wise)
    if "image_wise" in cases:
        uncertain |= cases["image_wise"] == "yes"
    cases["image_wise"] = uncertain.map({True: "yes", False: ""})
    if "mask_path" in cases:
        cases["mask_path"] = [os.path.join(base, value) if value else "" for value in cases["mask_path"]]  # noqa: PTH118
