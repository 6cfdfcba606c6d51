"""ROC and precision-recall curves, and average precision, by scikit-learn.

References
----------
Davis and Goadrich, ICML 2006 (why precision-recall curves are not joined by straight lines).
"""

from __future__ import annotations

from dataclasses import dataclass

import sklearn.metrics
from numpy.typing import ArrayLike

from training.metrics.arrays import Floats, truths_and_scores


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of a curve, one for each distinct threshold (an image is positive at or above it)."""

    x: Floats
    y: Floats
    thresholds: Floats  # from the highest to the lowest


def roc_curve(truth: ArrayLike, score: ArrayLike) -> Curve | None:
    """Return 1 - specificity (x) and sensitivity (y), from (0, 0) to (1, 1); None if a class is missing."""
    truths, scores = truths_and_scores(truth, score)
    if truths.all() or not truths.any():
        return None
    alarms, hits, thresholds = sklearn.metrics.roc_curve(truths, scores, drop_intermediate=False)
    return Curve(x=alarms, y=hits, thresholds=thresholds)


def precision_recall_curve(truth: ArrayLike, score: ArrayLike) -> Curve | None:
    """Return sensitivity (x) and precision (y), from the highest threshold to the lowest; None without positives."""
    truths, scores = truths_and_scores(truth, score)
    if not truths.any():
        return None
    precision, sensitivity, thresholds = sklearn.metrics.precision_recall_curve(truths, scores)
    # scikit-learn goes from the lowest threshold to the highest, and ends with a point that has no threshold.
    return Curve(x=sensitivity[-2::-1], y=precision[-2::-1], thresholds=thresholds[::-1])


def average_precision(truth: ArrayLike, score: ArrayLike) -> float | None:
    """Return the area under the precision-recall steps; for random scores it is the prevalence.

    Returns
    -------
    float or None
        In (0, 1]; None without positives.
    """
    truths, scores = truths_and_scores(truth, score)
    return float(sklearn.metrics.average_precision_score(truths, scores)) if truths.any() else None
