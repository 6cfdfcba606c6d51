"""CheXpert v1.0 and v1.0-small: 14 findings from reports, normal against abnormal.

References
----------
Irvin et al. 2019, "CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert
Comparison", https://arxiv.org/abs/1901.07031
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pandas as pd

from training.adapters.reading.chexpert_labels import (
    LABELS,
    AmbiguousOption,
    Blank,
    UncertainForOption,
    UncertainOption,
    as_columns,
    describe_policies,
    overall_label,
    read_findings,
)
from training.adapters.reading.dataset_folder import dataset_folder, files_exist, find_one, join_paths
from training.adapters.reading.result import IndexResult, Rejection, ReportProgress, ignore_progress, index_result
from training.adapters.reading.tables import LINE, read_table
from training.adapters.reading.values import age_of, sex_of

_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
_TAIL = r"((?:train|valid|test)/(patient\d+)/(study\d+)/[^/]+)$"


def index(
    root: Path,
    *,
    part: Annotated[Literal["train", "valid"], "Which of the two tables."] = "train",
    uncertain: UncertainOption = "multiclass",
    uncertain_for: UncertainForOption = (),
    blank: Annotated[
        Blank,
        "Findings that a report does not speak of become: unlabelled, or negative, as CheXpert's authors take them.",
    ] = "not_said",
    ambiguous: AmbiguousOption = "drop",
    laterals: Annotated[bool, "Take lateral views too."] = False,
    check_files: Annotated[bool, "Check that every image exists."] = True,
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index CheXpert.

    Parameters
    ----------
    root
        The folder that holds ``train.csv``; the paths in it may begin with either distribution's
        name.
    part, uncertain, uncertain_for, blank, ambiguous, laterals, check_files
        See their help.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is normal (No Finding) or abnormal (a positive finding that is not a support
        device).
    """
    base = dataset_folder(root)
    rejected: list[Rejection] = []
    name = f"{part}.csv"
    table = read_table(find_one(base, [name], "table of images"), rejected, required=(*_COLUMNS, *LABELS))
    watch("read", len(table), len(table))
    parts = table["Path"].str.extract(_TAIL)  # columns: path from the side on, patient, study
    tail = parts[0].fillna("")
    findings, is_bad = read_findings(table, uncertain=uncertain, uncertain_for=uncertain_for, blank=blank)
    label, contradicts = overall_label(findings)
    is_lateral = (table["Frontal/Lateral"].str.casefold() == "lateral") & (not laterals)
    is_ambiguous = (label == "") & (ambiguous == "drop")
    paths = join_paths(base, tail)
    reason = pd.Series("", index=table.index).mask(is_ambiguous, "label_ambiguous")
    reason = reason.mask(contradicts, "label_contradictory").mask(is_lateral, "lateral")
    reason = reason.mask(is_bad, "bad_finding")
    reason = reason.mask(~table["Frontal/Lateral"].str.casefold().isin(("frontal", "lateral")), "bad_view")
    reason = reason.mask(tail.duplicated(), "duplicate").mask(tail == "", "no_path")
    if check_files:
        is_open = reason == ""
        missing = is_open & ~files_exist(paths.where(is_open, ""))
        reason = reason.mask(missing, "no_file")
    rejected += [Rejection(name, int(n), why) for n, why in zip(table[LINE], reason, strict=True) if why]
    accepted = reason == ""
    label = label.mask((label == "") & (ambiguous == "abnormal"), "abnormal")
    cases = _cases(table[accepted], parts[accepted], paths[accepted]).assign(label=label[accepted], site="stanford")
    cases = pd.concat([cases, as_columns(findings[accepted])], axis=1)
    watch("checked", len(table), len(table))
    notes = [describe_policies(uncertain, uncertain_for, blank, ambiguous)]
    return index_result(cases, rejected, notes)


def _cases(table: pd.DataFrame, parts: pd.DataFrame, paths: pd.Series) -> pd.DataFrame:
    is_lateral = table["Frontal/Lateral"].str.casefold() == "lateral"
    # 17 frontal images have a projection of laterals: their projection is unknown.
    view = table["AP/PA"].where(table["AP/PA"].isin(("AP", "PA")), "unknown").mask(is_lateral, "L")
    ages = {text: age_of(text) for text in table["Age"].unique()}
    age = table["Age"].map(ages).astype(float)
    return pd.DataFrame(
        {
            "image_id": "chexpert:" + parts[0],
            "path": paths,
            "source": "chexpert",
            "patient_id": "chexpert:" + parts[1],
            "study_id": "chexpert:" + parts[1] + "/" + parts[2],
            "view": view,
            "sex": table["Sex"].map({text: sex_of(text) for text in table["Sex"].unique()}),
            "age": age.mask(age == 0),  # the data set's adults only: 0 is not an age
        }
    )
