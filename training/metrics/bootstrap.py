"""Bootstrap by patient: intervals that allow for the likeness of a patient's images.

Patients are drawn with replacement, each with all of its images. A draw is a weight for each image
(how often its patient was drawn), so that scores are sorted once and not once a draw.

References
----------
Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13 (percentiles).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from training.metrics.arrays import Booleans, Floats, group_codes, truths_and_scores
from training.metrics.interval import CONFIDENCE, Interval

REPLICATES = 2000
"""Draws for each interval: the 2.5th percentile is then exact to about a tenth of the interval's width."""

_CHUNK_CELLS = 4_000_000
"""Weights in memory at once, draws times images: 32 MB."""

Statistic = Callable[[Floats], Floats]
"""From weights (draws, N) to one figure a draw (draws,); NaN where a draw has none."""


def patient_bootstrap(
    statistics: dict[str, Statistic],
    groups: ArrayLike | None,
    count: int,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    estimates: dict[str, float] | None = None,
) -> dict[str, Interval]:
    """Return percentile intervals of several statistics over the same draws.

    Parameters
    ----------
    statistics
        Name to statistic of weights; see the functions of this module that return one.
    groups
        (N,): the patient of each image; None if each image is of another patient.
    count
        N.
    replicates
        Draws.
    seed
        The same seed, groups and statistics give the same intervals.
    confidence
        Of the intervals.
    estimates
        Name to the statistic of the sample itself. With few patients percentiles can exclude it; the
        interval is then widened to include it.

    Returns
    -------
    dict[str, Interval]
        A statistic that is NaN in more than half of the draws (one class only) is left out.
    """
    if count == 0 or replicates < 1:
        return {}
    replicated: dict[str, list[Floats]] = {name: [] for name in statistics}
    for weights in _draws(group_codes(groups, count), replicates, seed):
        for name, statistic in statistics.items():
            replicated[name].append(statistic(weights))
    intervals = {}
    for name, parts in replicated.items():
        figures = np.concatenate(parts)
        figures = figures[np.isfinite(figures)]
        if figures.size * 2 < replicates:
            continue
        low, high = np.quantile(figures, [(1 - confidence) / 2, (1 + confidence) / 2])
        value = (estimates or {}).get(name, float(low))
        intervals[name] = Interval(min(float(low), value), max(float(high), value), "patient bootstrap")
    return intervals


def _draws(codes: np.ndarray, replicates: int, seed: int) -> Iterator[Floats]:
    patients = int(codes.max()) + 1
    generator = np.random.default_rng(seed)
    # The size depends on the data alone: the draws are the same on every machine.
    chunk = max(1, _CHUNK_CELLS // codes.size)
    for start in range(0, replicates, chunk):
        size = min(chunk, replicates - start)
        times = generator.multinomial(patients, np.full(patients, 1 / patients), size=size)
        yield times[:, codes].astype(np.float64)


def area_under_roc(truth: ArrayLike, score: ArrayLike) -> Statistic:
    """Return the statistic: area under the ROC curve, ties half."""
    truths, scores = truths_and_scores(truth, score)
    order, ends = _ascending(scores)
    ordered = truths[order]

    def statistic(weights: Floats) -> Floats:
        arranged = weights[:, order]
        positives = _sums_of_ties(arranged * ordered, ends)
        negatives = _sums_of_ties(arranged * ~ordered, ends)
        below = np.cumsum(negatives, axis=1) - negatives
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        return _divide(((below + negatives / 2) * positives).sum(axis=1), pairs)

    return statistic


def precision_average(truth: ArrayLike, score: ArrayLike) -> Statistic:
    """Return the statistic: average precision."""
    truths, scores = truths_and_scores(truth, score)
    order, ends = _ascending(-scores)
    ordered = truths[order]

    def statistic(weights: Floats) -> Floats:
        arranged = weights[:, order]
        hits = _sums_of_ties(arranged * ordered, ends)
        alarms = np.cumsum(_sums_of_ties(arranged, ends), axis=1)
        precision = np.divide(np.cumsum(hits, axis=1), alarms, out=np.zeros_like(alarms), where=alarms > 0)
        return _divide((precision * hits).sum(axis=1), hits.sum(axis=1))

    return statistic


def share(of: Booleans, among: Booleans) -> Statistic:
    """Return the statistic: the fraction of the images `among` that are also `of`, e.g. the sensitivity."""

    def statistic(weights: Floats) -> Floats:
        hits: Floats = weights @ (of & among).astype(np.float64)
        return _divide(hits, weights @ among.astype(np.float64))

    return statistic


def _ascending(scores: Floats) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(scores, kind="stable")
    return order, np.r_[0, np.flatnonzero(np.diff(scores[order])) + 1]


def _sums_of_ties(weights: Floats, starts: np.ndarray) -> Floats:
    return np.asarray(np.add.reduceat(weights, starts, axis=1))


def _divide(above: Floats, below: Floats) -> Floats:
    return np.asarray(np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0))
