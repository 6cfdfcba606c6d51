"""Area under the ROC curve, exactly: its estimate, variance, interval and paired comparison.

The area is the Mann-Whitney statistic, with ties counted half, from midranks. Its variance is that
of DeLong; where a patient has several images, that of Obuchowski, which is DeLong's when each
patient has one. (``keras.metrics.AUC`` approximates with 200 thresholds and can be off by 0.3.)
Own code: scikit-learn and SciPy have neither a variance of the area nor a paired test of two areas,
for images that are independent or clustered by patient.

References
----------
DeLong, DeLong, Clarke-Pearson, Biometrics 1988;44:837. Sun and Xu, IEEE Signal Processing Letters
2014;21:1389 (midranks). Obuchowski, Biometrics 1997;53:567 (clusters). Newcombe, Statistics in
Medicine 2006;25:559, method 5 (interval that survives complete separation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

from training.metrics.arrays import Booleans, Floats, Integers, group_codes, truths_and_scores
from training.metrics.interval import CONFIDENCE, Estimate, Interval, normal_quantile


def roc_auc(truth: ArrayLike, score: ArrayLike) -> float | None:
    """Return the area under the ROC curve, in [0, 1]; None if only one class occurs.

    Examples
    --------
    >>> roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    truths, scores = truths_and_scores(truth, score)
    positives = int(truths.sum())
    negatives = truths.size - positives
    if not positives or not negatives:
        return None
    rank_sum = float(rankdata(scores)[truths].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def roc_auc_with_interval(
    truth: ArrayLike, score: ArrayLike, groups: ArrayLike | None = None, *, confidence: float = CONFIDENCE
) -> Estimate | None:
    """Return the area with its interval.

    Parameters
    ----------
    truth, score
        (N,): see `truths_and_scores`.
    groups
        (N,): the patient of each image; None if each image is of another patient.
    confidence
        Of the interval.

    Returns
    -------
    Estimate or None
        None if only one class occurs. Method ``delong``, or ``obuchowski`` if a patient has several
        images, cut to [0, 1]; ``newcombe`` if every score of one class is above every other's (its
        estimated variance would be 0); no interval for one positive or one negative patient.
    """
    truths, scores = truths_and_scores(truth, score)
    codes = group_codes(groups, truths.size)
    value = roc_auc(truths, scores)
    if value is None:
        return None
    patients = _patients_of_classes(truths, codes)
    if value in (0.0, 1.0):
        # Patients, not images: a patient's images are not independent.
        return Estimate(value, _newcombe(value, *patients, confidence))
    if min(patients) < 2:
        return Estimate(value)
    half = normal_quantile(confidence) * math.sqrt(float(auc_covariance(truths, [scores], codes)[0, 0]))
    method = "delong" if np.unique(codes).size == codes.size else "obuchowski"
    return Estimate(value, Interval(max(0.0, value - half), min(1.0, value + half), method))


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two areas over the same images, and their difference: first minus second."""

    first: float
    second: float
    difference: Estimate
    p_value: float | None  # two-sided, of no difference; None if there is no variance


def compare_auc(
    truth: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> PairedComparison | None:
    """Compare two scores of the same images by their areas.

    Parameters
    ----------
    truth, first, second
        (N,): the truths and both scores, in one order.
    groups
        (N,): the patient of each image; None if each image is of another patient.
    confidence
        Of the difference's interval.

    Returns
    -------
    PairedComparison or None
        None if only one class occurs.
    """
    truths, one = truths_and_scores(truth, first)
    _, other = truths_and_scores(truth, second)
    codes = group_codes(groups, truths.size)
    area, other_area = roc_auc(truths, one), roc_auc(truths, other)
    if area is None or other_area is None:
        return None
    difference = area - other_area
    if min(_patients_of_classes(truths, codes)) < 2:
        return PairedComparison(area, other_area, Estimate(difference), None)
    covariance = auc_covariance(truths, [one, other], codes)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = math.sqrt(max(0.0, variance))
    half = normal_quantile(confidence) * error
    interval = Interval(max(-1.0, difference - half), min(1.0, difference + half), "delong paired")
    return PairedComparison(area, other_area, Estimate(difference, interval), _two_sided(difference, error))


def auc_covariance(truth: ArrayLike, scores: Sequence[ArrayLike], groups: ArrayLike | None = None) -> Floats:
    """Return the covariance matrix of the areas of K scores over the same images.

    Parameters
    ----------
    truth
        (N,): 0 and 1; two patients of each class at least.
    scores
        K times (N,).
    groups
        (N,): the patient of each image; None if each image is of another patient.

    Returns
    -------
    NDArray
        (K, K) float64; by DeLong, and with several images of a patient by Obuchowski.

    Raises
    ------
    ValueError
        If a class has fewer than two patients: then there is no variance.
    """
    pairs = [truths_and_scores(truth, score) for score in scores]
    truths = pairs[0][0]
    codes = group_codes(groups, truths.size)
    positive_patients, negative_patients = _patients_of_classes(truths, codes)
    if min(positive_patients, negative_patients) < 2:
        raise ValueError("a variance needs two patients of each class at least")
    patients = int(codes.max()) + 1
    components = np.array([_components(truths, each) for _, each in pairs])  # (K, N), already minus the area
    of_positives, of_negatives = (
        np.array([np.bincount(codes[mask], row[mask], patients) for row in components]) / mask.sum()
        for mask in (truths, ~truths)
    )  # each (K, patients)
    cross = of_positives @ of_negatives.T
    return np.asarray(
        of_positives @ of_positives.T * (positive_patients / (positive_patients - 1))
        + of_negatives @ of_negatives.T * (negative_patients / (negative_patients - 1))
        + (cross + cross.T) * (patients / (patients - 1))
    )


def _components(truths: Booleans, scores: Floats) -> Floats:
    """Return for each image the fraction of the other class that it is ranked correctly against, minus the area."""
    ranks = rankdata(scores)
    within = np.empty_like(ranks)
    for mask in (truths, ~truths):
        within[mask] = rankdata(scores[mask])
    positives = int(truths.sum())
    negatives = truths.size - positives
    below = ranks - within  # images of the other class that are lower, ties half
    shares = np.where(truths, below / negatives, 1 - below / positives)
    return np.asarray(shares - shares[truths].mean())


def _patients_of_classes(truths: Booleans, codes: Integers) -> tuple[int, int]:
    return int(np.unique(codes[truths]).size), int(np.unique(codes[~truths]).size)


def _two_sided(difference: float, error: float) -> float | None:
    if error > 0:
        return float(2 * norm.sf(abs(difference) / error))
    return 1.0 if difference == 0 else None


def _newcombe(value: float, positives: int, negatives: int, confidence: float) -> Interval:
    quantile = normal_quantile(confidence)

    def excess(area: float) -> float:
        mean_less_one = (positives + negatives) / 2 - 1
        spread = 1 + mean_less_one * ((1 - area) / (2 - area) + area / (1 + area))
        return abs(value - area) - quantile * math.sqrt(area * (1 - area) * spread / (positives * negatives))

    # The other end is the value itself: nothing lies beyond 0 or 1.
    tiny = 1e-12
    if value == 1.0:
        return Interval(float(brentq(excess, tiny, 1 - tiny)), 1.0, "newcombe")
    return Interval(0.0, float(brentq(excess, tiny, 1 - tiny)), "newcombe")
