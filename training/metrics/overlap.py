"""Overlap of two masks: Dice's coefficient and the intersection over the union, with intervals.

References
----------
Dice 1945, "Measures of the amount of ecologic association between species"; Jaccard 1912, "The
distribution of the flora in the alpine zone".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.metrics.bootstrap import REPLICATES, Statistic, patient_bootstrap
from training.metrics.interval import Estimate


def dice(predicted: NDArray[np.bool_], drawn: NDArray[np.bool_]) -> float:
    """Return twice the common area over the sum of both; 1 for two empty masks."""
    both, total = int((predicted & drawn).sum()), int(predicted.sum()) + int(drawn.sum())
    return 2 * both / total if total else 1.0


def iou(predicted: NDArray[np.bool_], drawn: NDArray[np.bool_]) -> float:
    """Return the common area over the joint one; 1 for two empty masks."""
    either = int((predicted | drawn).sum())
    return int((predicted & drawn).sum()) / either if either else 1.0


def mean_with_interval(
    values: ArrayLike, patients: ArrayLike | None, *, replicates: int = REPLICATES, seed: int = 0
) -> Estimate:
    """Return the mean of one figure per image, with a bootstrap interval that draws patients.

    Parameters
    ----------
    values
        (N,), N at least 1.
    patients
        (N,): the patient of each image; None if each image is of another patient.
    replicates, seed
        Of the bootstrap.
    """
    figures = np.asarray(values, np.float64)
    mean = float(figures.mean())

    def average(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        means: NDArray[np.float64] = weights @ figures / weights.sum(axis=1)
        return means

    statistic: Statistic = average
    intervals = patient_bootstrap(
        {"mean": statistic}, patients, len(figures), replicates=replicates, seed=seed, estimates={"mean": mean}
    )
    return Estimate(mean, intervals.get("mean"))
