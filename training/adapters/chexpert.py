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

from cxr.errors import ManifestError
from training.adapters.reading.dataset_folder import dataset_folder, files_exist, find_one, join_paths
from training.adapters.reading.result import (
    IndexResult,
    Rejection,
    ReportProgress,
    ignore_progress,
    index_result,
    parse_pairs,
)
from training.adapters.reading.tables import LINE, read_table
from training.adapters.reading.values import age_of, finding_column, sex_of

FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""In the file's order; a positive one, except the first and the last, is abnormal."""

_PATHOLOGIES = FINDINGS[1:-1]
_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
_TAIL = r"((?:train|valid|test)/(patient\d+)/(study\d+)/[^/]+)$"
_POLICIES = {"ones": 1.0, "zeros": 0.0, "ignore": float("nan"), "multiclass": -1.0}

Policy = Literal["ones", "zeros", "ignore", "multiclass"]


def index(
    root: Path,
    *,
    part: Annotated[Literal["train", "valid"], "Which of the two tables."] = "train",
    uncertain: Annotated[
        Policy, "Uncertain findings (-1) become: positive, negative, unlabelled, or a class of their own."
    ] = "multiclass",
    uncertain_for: Annotated[tuple[str, ...], "Another policy for one finding, e.g. Edema=ones."] = (),
    ambiguous: Annotated[
        Literal["drop", "abnormal", "unlabelled"], "Images with neither No Finding nor a positive finding."
    ] = "drop",
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
    part, uncertain, uncertain_for, ambiguous, laterals, check_files
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
    table = read_table(find_one(base, [name], "table of images"), rejected, required=(*_COLUMNS, *FINDINGS))
    watch("read", len(table), len(table))
    parts = table["Path"].str.extract(_TAIL)  # columns: path from the side on, patient, study
    tail = parts[0].fillna("")
    findings = _findings(table, _policies(uncertain, uncertain_for))
    label, contradicts = _label(findings)
    is_lateral = (table["Frontal/Lateral"].str.casefold() == "lateral") & (not laterals)
    is_ambiguous = (label == "") & (ambiguous == "drop")
    paths = join_paths(base, tail)
    reason = pd.Series("", index=table.index).mask(is_ambiguous, "label_ambiguous")
    reason = reason.mask(contradicts, "label_contradictory").mask(is_lateral, "lateral")
    reason = reason.mask(_has_bad_finding(table), "bad_finding")
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
    cases = pd.concat([cases, findings[accepted].rename(columns=finding_column)], axis=1)
    watch("checked", len(table), len(table))
    notes = [
        f"Findings: uncertain = {uncertain}{''.join(f', {text}' for text in uncertain_for)}; ambiguous = {ambiguous}."
    ]
    return index_result(cases, rejected, notes)


def _policies(uncertain: str, uncertain_for: tuple[str, ...]) -> dict[str, float]:
    policies = dict.fromkeys(FINDINGS, uncertain) | parse_pairs(uncertain_for, "--uncertain-for")
    for finding, policy in policies.items():
        if finding not in FINDINGS or policy not in _POLICIES:
            raise ManifestError(
                f"--uncertain-for got {finding}={policy}; accepted are {', '.join(_POLICIES)} for the data set's "
                f"findings: {', '.join(FINDINGS)}."
            )
    return {finding: _POLICIES[policy] for finding, policy in policies.items()}


def _has_bad_finding(table: pd.DataFrame) -> pd.Series:
    is_finding = table[list(FINDINGS)].isin(("", "1.0", "0.0", "-1.0", "1", "0", "-1"))
    return ~is_finding.all(axis=1)


def _findings(table: pd.DataFrame, policies: dict[str, float]) -> pd.DataFrame:
    raw = table[list(FINDINGS)].apply(pd.to_numeric, errors="coerce")
    return pd.DataFrame({name: raw[name].mask(raw[name] == -1, value) for name, value in policies.items()})


def _label(findings: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return the label: normal, abnormal or empty; and whether an image has both."""
    is_normal = findings["No Finding"] == 1
    is_abnormal = (findings[list(_PATHOLOGIES)] == 1).any(axis=1)
    label = pd.Series("", index=findings.index).mask(is_normal, "normal").mask(is_abnormal, "abnormal")
    return label, is_normal & is_abnormal


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
