"""From a manifest's labels to what a network is trained on: truths, weights, and the order of an epoch."""

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
"""As a truth: the data set does not say."""

# Which generator is meant, where several have one seed.
_ORDER, _REPEAT = 1, 2


@dataclass(frozen=True, slots=True)
class Cases:
    """Images that take part, with their truths.

    Parameters
    ----------
    frame
        Their rows of the manifest.
    truths
        float32 (N, classes): 1, 0, or ``UNKNOWN``; with softmax exactly one 1.
    left_out
        Reason -> how many images of the manifest don't take part.
    """

    frame: pd.DataFrame
    truths: Floats
    left_out: dict[str, int]

    def side(self, name: str) -> Cases:
        """The cases of one side of the split."""
        is_in = (self.frame["split"] == name).to_numpy(dtype=bool)
        return Cases(self.frame[is_in].reset_index(drop=True), self.truths[is_in], {})


def select(frame: pd.DataFrame, task: Task) -> Cases:
    """Take the images that a task is about.

    Raises
    ------
    RunError
        If none is left, or a column of truths is missing.
    """
    left_out: dict[str, int] = {}
    is_view = frame["view"].isin(task.views).to_numpy(dtype=bool)
    left_out["view"] = int((~is_view).sum())
    kept = frame[is_view]
    truths = _from_columns(kept, task) if task.from_columns else _from_labels(kept, task)
    is_known = (truths != UNKNOWN).any(axis=1)
    left_out["label"] = int((~is_known).sum())
    if not is_known.any():
        raise RunError(
            f"No image of the manifest has a label that belongs to this recipe (classes {', '.join(task.classes)}; "
            f"negative {', '.join(task.negative)}): see `task` in the recipe."
        )
    return Cases(kept[is_known].reset_index(drop=True), truths[is_known], left_out)


def _from_labels(frame: pd.DataFrame, task: Task) -> Floats:
    labels = frame["label"]
    truths = np.full((len(frame), len(task.classes)), UNKNOWN, np.float32)
    if task.activation == "sigmoid":
        is_negative = (labels != "") & (labels.isin(task.negative) | (EVERY_OTHER in task.negative))
        truths[is_negative.to_numpy(dtype=bool)] = 0
    for place, name in enumerate(task.classes):
        is_class = labels.isin(task.labels_of(name)).to_numpy(dtype=bool)
        if task.activation == "softmax":
            truths[is_class] = 0
        truths[is_class, place] = 1
    return truths


def _from_columns(frame: pd.DataFrame, task: Task) -> Floats:
    names = [f"label_{name}" for name in task.classes]
    if missing := [name for name in names if name not in frame]:
        raise RunError(f"The manifest has no column {missing[0]}, which this recipe takes the truths from.")
    values = frame[names].to_numpy(dtype=np.float32)
    return np.where(np.isnan(values), np.float32(UNKNOWN), values)


def strata(truths: Floats) -> NDArray[np.int64]:
    """Number the class of each case: with one output 0 or 1, else the largest."""
    if truths.shape[1] == 1:
        return (truths[:, 0] > 0.5).astype(np.int64)
    largest: Rows = np.argmax(truths, axis=1).astype(np.int64)
    return largest


def sample_weights(cases: Cases, balance: Balance) -> Floats:
    """Weigh training images: the manifest's own weight, times what makes classes and sources even; mean 1."""
    weights = cases.frame["weight"].to_numpy(dtype=np.float64)
    keys = strata(cases.truths)
    if balance.method == "weights":
        weights = weights * _evened(keys)
    if balance.by_source:
        sources = pd.factorize(cases.frame["source"], sort=True)[0]
        together = keys * (sources.max() + 1) + sources
        for key in np.unique(keys):  # within a class, each source weighs the same, and the class what it weighed
            is_class = keys == key
            factors = _evened(together[is_class])
            weights[is_class] *= factors / np.average(factors, weights=weights[is_class])
    even: Floats = (weights / weights.mean()).astype(np.float32)
    return even


def _evened(keys: NDArray[np.int64]) -> NDArray[np.float64]:
    _, index, counts = np.unique(keys, return_inverse=True, return_counts=True)
    factors: NDArray[np.float64] = len(keys) / (len(counts) * counts[index])
    return factors


def kept_rows(truths: Floats, balance: Balance) -> Rows:
    """Choose the training cases, once for the whole run: all, or with ``undersample`` as many of each class."""
    everything = np.arange(len(truths))
    if balance.method != "undersample":
        return everything
    keys = strata(truths)
    smallest = np.unique(keys, return_counts=True)[1].min()
    random = np.random.default_rng(balance.seed)
    chosen = [random.choice(np.flatnonzero(keys == key), smallest, replace=False) for key in np.unique(keys)]
    return np.sort(np.concatenate(chosen))


def epoch_order(
    rows: Rows, truths: Floats, balance: Balance, *, seed: int, epoch: int, limit: int | None = None
) -> Rows:
    """Give the order of one epoch, a function of its arguments and of nothing else.

    Parameters
    ----------
    rows
        The training cases, from ``kept_rows``.
    truths
        Of all cases.
    balance
        With ``oversample``, rare classes are repeated until they are as many as the largest.
    seed, epoch
        What the order is a function of.
    limit
        How many images an epoch has at most; None: all.
    """
    order = rows
    if balance.method == "oversample":
        random = np.random.default_rng((seed, epoch, _REPEAT))
        keys = strata(truths)[rows]
        largest = np.unique(keys, return_counts=True)[1].max()
        order = np.concatenate([_repeated(rows[keys == key], largest, random) for key in np.unique(keys)])
    order = np.random.default_rng((seed, epoch, _ORDER)).permutation(order)
    return order if limit is None else order[:limit]


def _repeated(rows: Rows, count: int, random: np.random.Generator) -> Rows:
    more = random.choice(rows, count - len(rows), replace=True)
    return np.concatenate([rows, more])
