"""Baselines without the image: prediction from its source, or from view, sex, age and device.

A model that is no better than these has learnt nothing about lungs. (Test lists of COVIDx: the rule
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
    """AUC of a cross-validated logistic regression of a class on columns of the manifest."""

    name: str
    columns: tuple[str, ...]  # the candidates with two values or more
    auc: Estimate | None  # None: fewer than two positive or two negative patients
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
    candidates: tuple[str, ...],
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
        N rows. An empty value is a value of its own: a missing value is information too.
    candidates
        Columns; those that are absent or have one value are left out. Ages are grouped in bands.
    truth
        (N,): 0 and 1.
    patients
        (N,): the patient of each row; a patient is in one fold only.
    seed
        Of the folds.

    Returns
    -------
    Baseline
        Its area is over pairs of the same fold: each fold has a model of its own.
    """
    truths, codes = np.asarray(truth, dtype=bool), group_codes(patients, len(frame))
    columns = tuple(column for column in candidates if column in frame and frame[column].nunique(dropna=False) > 1)
    # Folds are assigned by patient; a patient with one positive image or more is positive.
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
    for number, (_, patients) in enumerate(splitter.split(patient_truths, patient_truths)):
        is_left_out = np.isin(codes, patients)
        fold_of[is_left_out] = number
        model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression(max_iter=1000))
        model.fit(table[~is_left_out], truths[~is_left_out])
        # Rounded, because the solver's last digits would break ties between rows with equal columns.
        scores[is_left_out] = np.round(model.decision_function(table[is_left_out]), 9)
    return scores, fold_of


def _texts(values: pd.Series) -> NDArray[np.object_]:
    if values.name == "age":
        ages = pd.to_numeric(values, errors="coerce")
        return np.array([age_band(None if np.isnan(age) else float(age)) for age in ages], dtype=object)
    return np.asarray(values.fillna("").astype(str), dtype=object)
