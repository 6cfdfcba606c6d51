"""The fourteen labels of CheXpert's labeler, which CheXpert, MIMIC-CXR-JPG and BRAX share.

A report says 1 (present), 0 (absent), -1 (uncertain) or nothing of each. The labeler's authors take nothing for
absent; a report that does not speak of a finding need not mean that.

References
----------
Irvin et al. 2019, https://arxiv.org/abs/1901.07031; https://github.com/stanfordmlgroup/chexpert-labeler
"""

from __future__ import annotations

from typing import Annotated, Literal

import pandas as pd

from cxr.errors import ManifestError
from training.adapters.reading.finding_columns import finding_column
from training.adapters.reading.result import parse_pairs

LABELS = (
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
"""In the order of CheXpert's table; a positive one, except the first and the last, is abnormal."""

_PATHOLOGIES = LABELS[1:-1]
_POLICIES = {"ones": 1.0, "zeros": 0.0, "ignore": float("nan"), "multiclass": -1.0}

Policy = Literal["ones", "zeros", "ignore", "multiclass"]
Blank = Literal["not_said", "negative"]

# Options of the adapters whose labels are CheXpert's.
UncertainOption = Annotated[
    Policy, "Uncertain findings (-1) become: positive, negative, unlabelled, or a class of their own."
]
UncertainForOption = Annotated[tuple[str, ...], "Another policy for one finding, e.g. Edema=ones."]
AmbiguousOption = Annotated[
    Literal["drop", "abnormal", "unlabelled"], "Images with neither No Finding nor a positive finding."
]


def read_findings(
    table: pd.DataFrame, *, uncertain: str, uncertain_for: tuple[str, ...], blank: Blank
) -> tuple[pd.DataFrame, pd.Series]:
    """Return the labels as numbers, and whether a row has one that is none.

    Parameters
    ----------
    table
        With the columns ``LABELS``, as texts.
    uncertain, uncertain_for
        Policy for -1; for single labels as LABEL=POLICY.
    blank
        What an empty field means.

    Returns
    -------
    tuple[pandas.DataFrame, pandas.Series]
        Columns ``LABELS``: 1, 0, -1, or NaN where nothing is said; and one bool for each row.

    Raises
    ------
    ManifestError
        If a policy names no label, or is none.
    """
    texts = table[list(LABELS)]
    is_bad = ~texts.isin(("", "1.0", "0.0", "-1.0", "1", "0", "-1")).all(axis=1)
    raw = texts.apply(pd.to_numeric, errors="coerce")
    policies = _policies(uncertain, uncertain_for)
    numbers = pd.DataFrame({name: raw[name].mask(raw[name] == -1, value) for name, value in policies.items()})
    return numbers.mask(texts == "", 0.0) if blank == "negative" else numbers, is_bad


def overall_label(findings: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return the label: normal, abnormal or empty; and whether an image has both."""
    is_normal = findings["No Finding"] == 1
    is_abnormal = (findings[list(_PATHOLOGIES)] == 1).any(axis=1)
    label = pd.Series("", index=findings.index).mask(is_normal, "normal").mask(is_abnormal, "abnormal")
    return label, is_normal & is_abnormal


def as_columns(findings: pd.DataFrame) -> pd.DataFrame:
    """Return the labels under the manifest's names of columns."""
    return findings.rename(columns={name: finding_column("chexpert", name) for name in LABELS})


def describe_policies(uncertain: str, uncertain_for: tuple[str, ...], blank: str, ambiguous: str) -> str:
    """Return the sentence of a manifest's notes on what the labels mean."""
    single = "".join(f", {text}" for text in uncertain_for)
    return f"Findings: uncertain = {uncertain}{single}; blank = {blank}; ambiguous = {ambiguous}."


def _policies(uncertain: str, uncertain_for: tuple[str, ...]) -> dict[str, float]:
    policies = dict.fromkeys(LABELS, uncertain) | parse_pairs(uncertain_for, "--uncertain-for")
    for finding, policy in policies.items():
        if finding not in LABELS or policy not in _POLICIES:
            raise ManifestError(
                f"--uncertain-for got {finding}={policy}; accepted are {', '.join(_POLICIES)} for the data set's "
                f"findings: {', '.join(LABELS)}."
            )
    return {finding: _POLICIES[policy] for finding, policy in policies.items()}
