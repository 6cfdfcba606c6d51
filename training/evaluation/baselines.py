"""What can be predicted without looking at the image: from its source, or from the patient's sex and age.

A model that is no better than these has shown nothing about lungs. (Test lists of COVIDx: the rule
"the majority label of this source" is right on every image.)

References
----------
DeGrave, Janizek, Lee, Nature Machine Intelligence 2021;3:610. Roberts et al., ibid. 2021;3:199.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from training.metrics.arrays import group_codes
from training.metrics.interval import Estimate
from training.metrics.stratified import stratified_auc
from training.metrics.subgroups import age_band

SOURCE = ("source", "site")
METADATA = ("view", "sex", "age", "manufacturer", "model")
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Baseline:
    """How well a class can be told from some columns alone, by cross-validated logistic regression."""

    name: str
    columns: tuple[str, ...]  # those of the wanted ones that have two values or more
    auc: Estimate | None  # None: fewer than two patients with the class, or without
    folds: int


def source_only(frame: pd.DataFrame, truth: ArrayLike, patients: ArrayLike, *, seed: int = 0) -> Baseline:
    """Predict from source and site alone; see `baseline`."""
    return baseline("source_only", frame, SOURCE, truth, patients, seed=seed)


def metadata_only(frame: pd.DataFrame, truth: ArrayLike, patients: ArrayLike, *, seed: int = 0) -> Baseline:
    """Predict from view, sex, age, manufacturer and model alone; see `baseline`."""
    return baseline("metadata_only", frame, METADATA, truth, patients, seed=seed)


def baseline(
    name: str,
    frame: pd.DataFrame,
    wanted: tuple[str, ...],
    truth: ArrayLike,
    patients: ArrayLike,
    *,
    seed: int = 0,
) -> Baseline:
    """Predict a class from columns of a manifest or a predictions table.

    Parameters
    ----------
    name
        Of the baseline.
    frame
        N rows. An empty value is a value of its own: that something is missing tells something too.
    wanted
        Columns; those that are absent or have one value are left out. Ages count by bands.
    truth
        (N,): 0 and 1.
    patients
        (N,): the patient of each row; a patient is never on both sides.
    seed
        Of the folds.

    Returns
    -------
    Baseline
        Its area counts pairs of the same fold only, as each fold has a model of its own.
    """
    truths, codes = np.asarray(truth, dtype=bool), group_codes(patients, len(frame))
    columns = tuple(column for column in wanted if column in frame and frame[column].nunique(dropna=False) > 1)
    # Folds are dealt by patient: a patient is positive who has one positive image.
    patient_truths = np.bincount(codes, weights=truths) > 0
    folds = min(FOLDS, int(patient_truths.sum()), int((~patient_truths).sum()))
    if folds < 2:
        return Baseline(name, columns, None, 0)
    if not columns:
        return Baseline(name, columns, Estimate(0.5), folds)
    table = np.column_stack([_texts(frame[column]) for column in columns])
    scores, fold_of = _out_of_fold(
        table, truths, codes, patient_truths, StratifiedKFold(folds, shuffle=True, random_state=seed)
    )
    return Baseline(name, columns, stratified_auc(truths, scores, fold_of, codes), folds)


def _out_of_fold(
    table: NDArray[np.object_],
    truths: NDArray[np.bool_],
    codes: NDArray[np.int64],
    patient_truths: NDArray[np.bool_],
    splitter: StratifiedKFold,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    scores, fold_of = np.zeros(truths.size), np.zeros(truths.size, dtype=np.int64)
    for number, (_, judged) in enumerate(splitter.split(patient_truths, patient_truths)):
        judge = np.isin(codes, judged)
        fold_of[judge] = number
        model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression(max_iter=1000))
        model.fit(table[~judge], truths[~judge])
        # Sixteen digits of the solver would break ties between rows of the same columns.
        scores[judge] = np.round(model.decision_function(table[judge]), 9)
    return scores, fold_of


def _texts(values: pd.Series) -> NDArray[np.object_]:
    if values.name == "age":
        ages = pd.to_numeric(values, errors="coerce")
        return np.array([age_band(None if np.isnan(age) else float(age)) for age in ages], dtype=object)
    return np.asarray(values.fillna("").astype(str), dtype=object)
