"""ROC and precision-recall curves, and average precision.

References
----------
Davis and Goadrich, ICML 2006 (why precision-recall curves are not joined by straight lines).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from training.metrics.arrays import Floats, truths_and_scores


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of a curve, one for each distinct threshold (an image is positive at or above it)."""

    x: Floats
    y: Floats
    thresholds: Floats


def roc_curve(truth: ArrayLike, score: ArrayLike) -> Curve | None:
    """Return 1 - specificity (x) and sensitivity (y), from (0, 0) to (1, 1); None if a class is missing."""
    truths, scores = truths_and_scores(truth, score)
    positives = int(truths.sum())
    if positives in (0, truths.size):
        return None
    hits, alarms, thresholds = _cumulated(truths, scores)
    return Curve(
        x=np.r_[0.0, (alarms - hits) / (truths.size - positives)],
        y=np.r_[0.0, hits / positives],
        thresholds=np.r_[np.inf, thresholds],
    )


def precision_recall_curve(truth: ArrayLike, score: ArrayLike) -> Curve | None:
    """Return sensitivity (x) and precision (y), from the highest threshold to the lowest; None without positives."""
    truths, scores = truths_and_scores(truth, score)
    if not truths.any():
        return None
    hits, alarms, thresholds = _cumulated(truths, scores)
    return Curve(x=hits / truths.sum(), y=hits / alarms, thresholds=thresholds)


def average_precision(truth: ArrayLike, score: ArrayLike) -> float | None:
    """Return the area under the precision-recall steps; by chance it is the prevalence.

    Returns
    -------
    float or None
        In (0, 1]; None without positives.
    """
    curve = precision_recall_curve(truth, score)
    if curve is None:
        return None
    return float(np.sum(np.diff(np.r_[0.0, curve.x]) * curve.y))


def _cumulated(truths: Floats | np.ndarray, scores: Floats) -> tuple[Floats, Floats, Floats]:
    """Count positives and images at or above each distinct score, highest first."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.r_[np.flatnonzero(np.diff(ordered)), ordered.size - 1]
    hits = np.cumsum(truths[order], dtype=np.float64)[ends]
    return hits, ends + 1.0, ordered[ends]
