"""Area under the ROC curve over pairs that share a stratum: one source, or one fold.

References
----------
Mantel-Haenszel weighting of strata by their pairs, as in van Elteren, Bulletin of the ISI 1960;37:351.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from training.metrics.arrays import group_codes, truths_and_scores
from training.metrics.auc import roc_auc_with_interval
from training.metrics.interval import CONFIDENCE, Estimate, Interval, normal_quantile


def stratified_auc(
    truth: ArrayLike,
    score: ArrayLike,
    strata: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> Estimate | None:
    """Return the area over pairs of images from the same stratum only.

    With the source as stratum, differences between sources don't count; with the fold of a
    cross-validation as stratum, differences between the folds' models don't.

    Parameters
    ----------
    truth, score
        (N,): see `truths_and_scores`.
    strata
        (N,): name of each image's stratum.
    groups
        (N,): the patient of each image; None if each image is of another patient.
    confidence
        Of the interval.

    Returns
    -------
    Estimate or None
        Mean of the strata's areas, weighted by their pairs; None if no stratum has both classes. The
        variance takes strata as independent. No interval if a stratum has none.
    """
    truths, scores = truths_and_scores(truth, score)
    codes, names = group_codes(groups, truths.size), group_codes(strata, truths.size)
    parts: list[tuple[float, Estimate, float]] = []  # pairs, area, variance
    for mask in (names == name for name in np.unique(names)):
        estimate = roc_auc_with_interval(truths[mask], scores[mask], codes[mask], confidence=confidence)
        if estimate is not None:
            pairs = float(truths[mask].sum()) * float((~truths[mask]).sum())
            parts.append((pairs, estimate, _variance_of(estimate, confidence)))
    if not parts:
        return None
    weights = np.array([pairs for pairs, _, _ in parts])
    weights /= weights.sum()
    value = float(np.dot(weights, [estimate.value for _, estimate, _ in parts]))
    error = math.sqrt(float(np.dot(weights**2, [variance for _, _, variance in parts])))
    if not math.isfinite(error):
        return Estimate(value)
    half = normal_quantile(confidence) * error
    return Estimate(value, Interval(max(0.0, value - half), min(1.0, value + half), "stratified"))


def _variance_of(estimate: Estimate, confidence: float) -> float:
    """Return the variance that an interval was made from; infinite without an interval."""
    if estimate.interval is None:
        return math.inf
    # The wider half: the other may have been cut at 0 or 1.
    half = max(estimate.value - estimate.interval.low, estimate.interval.high - estimate.value)
    return (half / normal_quantile(confidence)) ** 2
