"""Training targets from a manifest's labels: truths, sample weights, and the order of an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.errors import RunError
from training.recipe import EVERY_OTHER, Balance, Task

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

UNKNOWN: Final = -1.0
"""Truth of a class that the data set does not label."""


@dataclass(frozen=True, slots=True)
class Cases:
    """Selected images with their truths.

    Parameters
    ----------
    frame
        Their rows of the manifest.
    truths
        float32 (N, classes): 1, 0, or ``UNKNOWN``; with softmax exactly one 1.
    left_out
        Reason to number of excluded images of the manifest.
    """

    frame: pd.DataFrame
    truths: Floats
    left_out: dict[str, int]

    def side(self, name: str) -> Cases:
        """Return the cases of one side of the split."""
        is_in = (self.frame["split"] == name).to_numpy(dtype=bool)
        return Cases(self.frame[is_in].reset_index(drop=True), self.truths[is_in], {})


def select(frame: pd.DataFrame, task: Task) -> Cases:
    """Select the images whose view and label belong to a task.

    Raises
    ------
    RunError
        If no image is selected, or a column ``label_<class>`` is absent.
    """
    left_out: dict[str, int] = {}
    is_view = frame["view"].isin(task.views).to_numpy(dtype=bool)
    left_out["view"] = int((~is_view).sum())
    viewed = frame[is_view]
    truths = truths_of(viewed, task)
    is_known = (truths != UNKNOWN).any(axis=1)
    left_out["label"] = int((~is_known).sum())
    if not is_known.any():
        raise RunError(
            f"No image of the manifest has a label that belongs to this recipe (classes {', '.join(task.classes)}; "
            f"negative {', '.join(task.negative)}): see `task` in the recipe."
        )
    return Cases(viewed[is_known].reset_index(drop=True), truths[is_known], left_out)


def truths_of(frame: pd.DataFrame, task: Task) -> Floats:
    """Return the truths of a manifest's rows, float32 (N, classes): 1, 0, or ``UNKNOWN``.

    Raises
    ------
    RunError
        If a column ``label_<class>`` is absent.
    """
    return _from_columns(frame, task) if task.from_columns else _from_labels(frame, task)


def _from_labels(frame: pd.DataFrame, task: Task) -> Floats:
    labels = frame["label"]
    truths = np.full((len(frame), len(task.classes)), UNKNOWN, np.float32)
    if task.activation == "sigmoid":
        is_negative = (labels != "") & (labels.isin(task.negative) | (EVERY_OTHER in task.negative))
        is_negative &= ~labels.isin(task.leave_out or ())
        truths[is_negative.to_numpy(dtype=bool)] = 0
    for output, name in enumerate(task.classes):
        is_class = labels.isin(task.labels_of(name)).to_numpy(dtype=bool)
        if task.activation == "softmax":
            truths[is_class] = 0
        truths[is_class, output] = 1
    return truths


def _from_columns(frame: pd.DataFrame, task: Task) -> Floats:
    names = [f"label_{name}" for name in task.classes]
    if missing := [name for name in names if name not in frame]:
        raise RunError(f"The manifest has no column {missing[0]}, which this recipe takes the truths from.")
    values = frame[names].to_numpy(dtype=np.float32)
    return np.where(np.isnan(values), np.float32(UNKNOWN), values)


def strata(truths: Floats) -> NDArray[np.int64]:
    """Return the class index of each case, shape (N,): with one output 0 or 1, with softmax that of the true class.

    Several independent labels have none (``training.inputs.label_balance``).
    """
    if truths.shape[1] == 1:
        return (truths[:, 0] > 0.5).astype(np.int64)
    largest: Rows = np.argmax(truths, axis=1).astype(np.int64)
    return largest


def sample_weights(cases: Cases, balance: Balance, *, is_multi_label: bool = False) -> Floats:
    """Return sample weights (N,): the manifest's weights, balanced by class and source as configured; mean 1.

    Several independent labels are balanced in the loss, one by one; sources then are even as a whole.
    """
    weights = cases.frame["weight"].to_numpy(dtype=np.float64, copy=True)
    keys = np.zeros(len(weights), np.int64) if is_multi_label else strata(cases.truths)
    if balance.method == "weights" and not is_multi_label:
        weights = weights * _balancing_factors(keys)
    if balance.by_source:
        sources = pd.factorize(cases.frame["source"], sort=True)[0]
        together = keys * (sources.max() + 1) + sources
        for key in np.unique(keys):  # sources of a class get equal sums; the sum of the class is unchanged
            is_class = keys == key
            factors = _balancing_factors(together[is_class])
            weights[is_class] *= factors / np.average(factors, weights=weights[is_class])
    scaled: Floats = (weights / weights.mean()).astype(np.float32)
    return scaled


def _balancing_factors(keys: NDArray[np.int64]) -> NDArray[np.float64]:
    _, index, counts = np.unique(keys, return_inverse=True, return_counts=True)
    factors: NDArray[np.float64] = len(keys) / (len(counts) * counts[index])
    return factors
