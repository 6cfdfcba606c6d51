"""Choice of a threshold, and the figures of the model at a threshold.

A threshold is chosen on validation images and frozen before any test image is scored. These
functions can't check that; the run's files record it.

References
----------
Mercaldo, Lau, Zhou, Statistics in Medicine 2007;26:2170 (predictive values at a stated prevalence).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from training.metrics.arrays import Booleans, Floats, group_codes, truths_and_scores
from training.metrics.curves import roc_curve
from training.metrics.interval import CONFIDENCE, Estimate, Interval, wilson

Rule = Literal["sensitivity", "specificity", "youden", "cost"]


@dataclass(frozen=True, slots=True)
class ChosenThreshold:
    """A threshold in the unit of the scores, and its rule."""

    threshold: float  # an image is positive at or above it
    rule: str  # in words
    interval: Interval | None = None  # over bootstrap draws of the patients: stability of the choice


def choose_threshold(
    truth: ArrayLike,
    score: ArrayLike,
    *,
    rule: Rule = "sensitivity",
    target: float = 0.90,
    miss_cost: float = 1.0,
    prevalence: float | None = None,
) -> ChosenThreshold | None:
    """Choose a threshold on validation scores.

    Parameters
    ----------
    truth, score
        (N,) of the validation images.
    rule
        ``sensitivity``: the highest threshold whose sensitivity is `target` or more. ``specificity``:
        the lowest whose specificity is `target` or more. ``youden``: the largest sum of both.
        ``cost``: the least expected cost, where a missed case costs `miss_cost` false alarms.
    target
        For the first two rules, in (0, 1].
    miss_cost
        For ``cost``: positive.
    prevalence
        For ``cost``: of the population that the model is for; None for that of the images.

    Returns
    -------
    ChosenThreshold or None
        Half-way between two scores, so that the last digits of a score (another device) have no effect;
        for ``specificity`` possibly just above the highest. None if only one class occurs.

    Raises
    ------
    ValueError
        If the target, cost, prevalence or rule is not accepted.
    """
    _check(rule, target, miss_cost, prevalence)
    curve = roc_curve(truth, score)
    if curve is None:
        return None
    sensitivity, specificity, thresholds = curve.y[1:], 1 - curve.x[1:], curve.thresholds[1:]
    slack = 1e-12  # 0.9 of 10 cases is 9 of them, despite rounding
    if rule == "sensitivity":
        index = int(np.argmax(sensitivity >= target - slack))
        return ChosenThreshold(_between(thresholds, index), f"sensitivity of at least {target:.2f}")
    if rule == "specificity":
        indices = np.flatnonzero(specificity >= target - slack)
        threshold = _between(thresholds, indices[-1]) if indices.size else float(np.nextafter(thresholds[0], np.inf))
        return ChosenThreshold(threshold, f"specificity of at least {target:.2f}")
    if rule == "youden":
        return ChosenThreshold(
            _between(thresholds, int(np.argmax(sensitivity + specificity))), "largest sensitivity + specificity"
        )
    share = float(np.mean(np.asarray(truth, dtype=bool))) if prevalence is None else prevalence
    cost = miss_cost * share * (1 - sensitivity) + (1 - share) * (1 - specificity)
    return ChosenThreshold(
        _between(thresholds, int(np.argmin(cost))),
        f"least cost, a missed case costing {miss_cost:g} false alarms, at a prevalence of {share:.3f}",
    )


def threshold_interval(
    truth: ArrayLike,
    score: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    rule: Rule = "sensitivity",
    target: float = 0.90,
    replicates: int = 500,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Return the bootstrap interval of the chosen threshold over draws of the validation patients.

    None if fewer than half of the draws have both classes.
    """
    truths, scores = truths_and_scores(truth, score)
    codes = group_codes(groups, truths.size)
    members = [np.flatnonzero(codes == code) for code in range(int(codes.max()) + 1)] if codes.size else []
    generator = np.random.default_rng(seed)
    thresholds = []
    for _ in range(replicates if members else 0):
        rows = np.concatenate([members[code] for code in generator.integers(len(members), size=len(members))])
        if (choice := choose_threshold(truths[rows], scores[rows], rule=rule, target=target)) is not None:
            thresholds.append(choice.threshold)
    if len(thresholds) * 2 < replicates or not thresholds:
        return None
    low, high = np.quantile(thresholds, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), "patient bootstrap")


@dataclass(frozen=True, slots=True)
class Counts:
    """The confusion matrix of one class."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


@dataclass(frozen=True, slots=True)
class PredictiveValues:
    """Predictive values at one prevalence."""

    prevalence: float
    ppv: Estimate | None
    npv: Estimate | None


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """Figures of the model at its operating point; proportions with Wilson's intervals."""

    threshold: float
    counts: Counts
    sensitivity: Estimate | None
    specificity: Estimate | None
    ppv: Estimate | None
    npv: Estimate | None
    accuracy: Estimate | None
    stated: tuple[PredictiveValues, ...] = ()  # at stated prevalences


def count_at(truths: Booleans, scores: Floats, threshold: float) -> Counts:
    """Count the four outcomes; an image is positive at or above the threshold."""
    alarms = scores >= threshold
    # Sums of NumPy instead of scikit-learn's confusion_matrix, which sorts the labels: each subgroup is counted.
    return Counts(
        true_positive=int((alarms & truths).sum()),
        false_positive=int((alarms & ~truths).sum()),
        false_negative=int((~alarms & truths).sum()),
        true_negative=int((~alarms & ~truths).sum()),
    )


def evaluate_at(
    truth: ArrayLike,
    score: ArrayLike,
    threshold: float,
    *,
    prevalences: tuple[float, ...] = (),
    confidence: float = CONFIDENCE,
) -> AtThreshold:
    """Return the figures at a threshold, in these images and at stated prevalences.

    Raises
    ------
    ValueError
        If a prevalence does not lie between 0 and 1, or an array is not accepted.
    """
    truths, scores = truths_and_scores(truth, score)
    counts = count_at(truths, scores, threshold)
    right, wrong = counts.true_positive, counts.false_positive
    missed, cleared = counts.false_negative, counts.true_negative
    sensitivity = wilson(right, right + missed, confidence=confidence)
    specificity = wilson(cleared, cleared + wrong, confidence=confidence)
    return AtThreshold(
        threshold=float(threshold),
        counts=counts,
        sensitivity=sensitivity,
        specificity=specificity,
        ppv=wilson(right, right + wrong, confidence=confidence),
        npv=wilson(cleared, cleared + missed, confidence=confidence),
        accuracy=wilson(right + cleared, truths.size, confidence=confidence),
        stated=tuple(predictive_values(sensitivity, specificity, each) for each in prevalences),
    )


def predictive_values(
    sensitivity: Estimate | None, specificity: Estimate | None, prevalence: float
) -> PredictiveValues:
    """Return the predictive values at a prevalence, by Bayes' theorem.

    Their intervals reach from both proportions at the lower ends of their Wilson intervals to both at
    the upper ends: conservative, never too narrow.

    Raises
    ------
    ValueError
        If the prevalence does not lie between 0 and 1.
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"a prevalence lies between 0 and 1; got {prevalence}")
    if sensitivity is None or specificity is None:
        return PredictiveValues(prevalence, None, None)
    return PredictiveValues(
        prevalence,
        ppv=_bayes(sensitivity, specificity, prevalence),
        # The same formula for negative results: specificity, and the fraction without the finding.
        npv=_bayes(specificity, sensitivity, 1 - prevalence),
    )


def _bayes(hit: Estimate, other: Estimate, share: float) -> Estimate | None:
    def value(hits: float, others: float) -> float | None:
        right, wrong = hits * share, (1 - others) * (1 - share)
        return right / (right + wrong) if right + wrong > 0 else None

    middle = value(hit.value, other.value)
    if middle is None or hit.interval is None or other.interval is None:
        return None if middle is None else Estimate(middle)
    low, high = value(hit.interval.low, other.interval.low), value(hit.interval.high, other.interval.high)
    ends = (middle if low is None else low, middle if high is None else high)
    return Estimate(middle, Interval(min(ends[0], middle), max(ends[1], middle), "wilson ends"))


def _between(thresholds: Floats, index: int) -> float:
    """Return the middle between a score and the next lower one: both classify these images alike."""
    here = float(thresholds[index])
    lower = float(thresholds[index + 1]) if index + 1 < thresholds.size else here
    middle = lower + (here - lower) / 2
    return middle if middle > lower else here


def _check(rule: str, target: float, miss_cost: float, prevalence: float | None) -> None:
    if rule not in ("sensitivity", "specificity", "youden", "cost"):
        raise ValueError(f"a rule is sensitivity, specificity, youden or cost; got {rule}")
    if not 0 < target <= 1:
        raise ValueError(f"a target lies in (0, 1]; got {target}")
    if not miss_cost > 0:
        raise ValueError(f"a cost is positive; got {miss_cost}")
    if prevalence is not None and not 0 < prevalence < 1:
        raise ValueError(f"a prevalence lies between 0 and 1; got {prevalence}")
