"""Decision curve: net benefit of the model against treat all and treat none.

References
----------
Vickers and Elkin, Medical Decision Making 2006;26:565.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from training.metrics.arrays import Floats, truths_and_scores

THRESHOLDS = tuple(round(0.01 * step, 2) for step in range(1, 100))
"""Threshold probabilities: from one missed case being as bad as 99 false alarms to the reverse."""


@dataclass(frozen=True, slots=True)
class DecisionCurve:
    """Net benefit at each threshold: true positives per image less the weighted false positives."""

    prevalence: float
    thresholds: Floats
    model: Floats
    treat_all: Floats

    @property
    def useful(self) -> tuple[float, ...]:
        """Thresholds where the model's net benefit is above those of treat all and of treat none."""
        better = self.model > np.maximum(self.treat_all, 0.0) + 1e-12
        return tuple(map(float, self.thresholds[better]))


def decision_curve(
    truth: ArrayLike,
    probability: ArrayLike,
    *,
    thresholds: tuple[float, ...] = THRESHOLDS,
    prevalence: float | None = None,
) -> DecisionCurve | None:
    """Return the net benefit of acting on probabilities at or above each threshold.

    Parameters
    ----------
    truth, probability
        (N,).
    thresholds
        Between 0 and 1.
    prevalence
        Of the population that the model is for; None for that of the images.

    Returns
    -------
    DecisionCurve or None
        None if only one class occurs.

    Raises
    ------
    ValueError
        If a threshold or the prevalence does not lie between 0 and 1.
    """
    truths, probabilities = truths_and_scores(truth, probability)
    if not all(0 < each < 1 for each in (*thresholds, 0.5 if prevalence is None else prevalence)):
        raise ValueError("thresholds and prevalences lie between 0 and 1")
    if truths.all() or not truths.any():
        return None
    share = float(truths.mean()) if prevalence is None else prevalence
    cuts = np.array(thresholds)
    weight = cuts / (1 - cuts)
    positives, negatives = np.sort(probabilities[truths]), np.sort(probabilities[~truths])
    sensitivity = 1 - np.searchsorted(positives, cuts) / positives.size
    alarms = 1 - np.searchsorted(negatives, cuts) / negatives.size
    return DecisionCurve(
        prevalence=share,
        thresholds=cuts,
        model=share * sensitivity - (1 - share) * weight * alarms,
        treat_all=share - (1 - share) * weight,
    )
