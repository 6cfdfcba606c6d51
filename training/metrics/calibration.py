"""Calibration of probabilities: reliability bins, ECE, Brier score, recalibration of logits.

References
----------
Naeini, Cooper, Hauskrecht, AAAI 2015 (ECE). Guo et al., ICML 2017 (temperature). Platt, Advances in
Large Margin Classifiers 1999 (targets that keep separable data finite). Van Calster et al., BMC
Medicine 2019;17:230 (calibration slope and intercept).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

from training.metrics.arrays import Floats, truths_and_scores
from training.metrics.interval import Estimate, wilson

BINS = 10


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Images whose probability lies in one range, and the fraction of them that has the finding."""

    low: float
    high: float
    count: int
    mean_probability: float
    observed: Estimate  # with Wilson's interval


@dataclass(frozen=True, slots=True)
class CalibrationFigures:
    """Agreement of probabilities with observed fractions."""

    ece: float  # expected calibration error, mean |observed - probability| over the bins
    largest_error: float  # of a bin
    brier: float  # mean squared error of the probability
    slope: float | None  # 1 is calibrated; below 1 the model is overconfident
    intercept: float | None  # in logits; 0 is calibrated
    bins: tuple[ReliabilityBin, ...]


def calibration_figures(
    truth: ArrayLike, probability: ArrayLike, *, bins: int = BINS, kind: Literal["width", "mass"] = "width"
) -> CalibrationFigures | None:
    """Return reliability bins, and the figures computed from them.

    Parameters
    ----------
    truth
        (N,): 0 and 1.
    probability
        (N,): in [0, 1].
    bins
        Number of bins; empty ones are left out.
    kind
        ``width``: bins of equal width (the usual ECE). ``mass``: of about equally many images.

    Returns
    -------
    CalibrationFigures or None
        None without images.

    Raises
    ------
    ValueError
        If a probability lies outside [0, 1], or there is no bin.
    """
    truths, probabilities = truths_and_scores(truth, probability)
    if bins < 1:
        raise ValueError(f"at least one bin is needed; got {bins}")
    if ((probabilities < 0) | (probabilities > 1)).any():
        raise ValueError("probabilities lie in [0, 1]")
    if not truths.size:
        return None
    edges = np.linspace(0, 1, bins + 1)
    if kind == "mass":
        edges = np.unique(np.r_[0.0, np.quantile(probabilities, edges[1:-1]), 1.0])
    numbers = np.clip(np.searchsorted(edges, probabilities, side="right") - 1, 0, len(edges) - 2)
    reliability = tuple(
        _bin(truths[numbers == number], probabilities[numbers == number], edges[number], edges[number + 1])
        for number in np.unique(numbers)
    )
    errors = np.array([abs(each.observed.value - each.mean_probability) for each in reliability])
    slope, intercept = _recalibration(truths, probabilities)
    return CalibrationFigures(
        ece=float(np.average(errors, weights=[each.count for each in reliability])),
        largest_error=float(errors.max()),
        brier=float(np.mean((probabilities - truths) ** 2)),
        slope=slope,
        intercept=intercept,
        bins=reliability,
    )


def _bin(truths: NDArray[np.bool_], probabilities: Floats, low: float, high: float) -> ReliabilityBin:
    observed = wilson(int(truths.sum()), int(truths.size)) or Estimate(0.0)
    return ReliabilityBin(float(low), float(high), int(truths.size), float(probabilities.mean()), observed)


@dataclass(frozen=True, slots=True)
class Recalibration:
    """Affine correction of logits: ``scale * logit + offset``, one offset for each class.

    In the graph it is one ``Rescaling`` layer. The temperature is 1 / scale.
    """

    scale: float
    offset: tuple[float, ...]
    loss_before: float  # mean negative log likelihood, in nats
    loss_after: float

    @property
    def temperature(self) -> float:
        """Above 1 the uncorrected model was overconfident."""
        return 1 / self.scale

    def apply(self, logits: ArrayLike) -> Floats:
        """Return corrected logits, in the shape of the given ones."""
        offset = np.array(self.offset if len(self.offset) > 1 else self.offset[0])
        return np.asarray(self.scale * np.asarray(logits, dtype=np.float64) + offset)


_LARGEST_LOG_SCALE = np.log(100.0)  # a temperature from 0.01 to 100: beyond, the logits carry no information


def fit_sigmoid(truth: ArrayLike, logit: ArrayLike) -> Recalibration | None:
    """Fit temperature and bias of one logit on validation images.

    Parameters
    ----------
    truth, logit
        (N,) of images that the weights were not fitted on.

    Returns
    -------
    Recalibration or None
        None if only one class occurs. The scale is positive: the order of the images stays.
    """
    truths, logits = truths_and_scores(truth, logit)
    positives = int(truths.sum())
    negatives = truths.size - positives
    if not positives or not negatives:
        return None
    targets = np.where(truths, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: Floats) -> float:
        return _binary_loss(targets, np.exp(parameters[0]) * logits + parameters[1])

    optimum = minimize(
        loss, np.zeros(2), method="L-BFGS-B", bounds=[(-_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE), (-50, 50)]
    )
    scale, offset = float(np.exp(optimum.x[0])), float(optimum.x[1])
    hard = truths.astype(np.float64)
    return Recalibration(scale, (offset,), _binary_loss(hard, logits), _binary_loss(hard, scale * logits + offset))


def fit_softmax(label: ArrayLike, logits: ArrayLike) -> Recalibration | None:
    """Fit one temperature and a bias for each class on validation images.

    Parameters
    ----------
    label
        (N,): class numbers, from 0.
    logits
        (N, C) of images that the weights were not fitted on.

    Returns
    -------
    Recalibration or None
        None if a class has no image: its bias would have no bound.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a label is no class number.
    """
    labels, values = np.asarray(label, dtype=np.int64), np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        raise ValueError(f"labels are (N,) and logits (N, C); got {labels.shape} and {values.shape}")
    classes = values.shape[1]
    if not np.isin(labels, np.arange(classes)).all():
        raise ValueError(f"labels are numbers from 0 to {classes - 1}")
    if np.unique(labels).size < classes:
        return None

    def loss(parameters: Floats) -> float:
        return _category_loss(labels, np.exp(parameters[0]) * values + np.r_[parameters[1:], 0.0])

    bounds = [(-_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE), *[(-50, 50)] * (classes - 1)]
    optimum = minimize(loss, np.zeros(classes), method="L-BFGS-B", bounds=bounds)
    scale, offset = float(np.exp(optimum.x[0])), np.r_[optimum.x[1:], 0.0]
    offset -= offset.mean()  # softmax is invariant to a common shift
    return Recalibration(
        scale,
        tuple(map(float, offset)),
        _category_loss(labels, values),
        _category_loss(labels, scale * values + offset),
    )


def sigmoid(logits: ArrayLike) -> Floats:
    """Return probabilities of logits, elementwise."""
    return np.asarray(expit(np.asarray(logits, dtype=np.float64)))


def softmax_rows(logits: ArrayLike) -> Floats:
    """Return probabilities of (N, C) logits; each row sums to 1."""
    return np.asarray(softmax(np.asarray(logits, dtype=np.float64), axis=1))


def _binary_loss(targets: Floats, logits: Floats) -> float:
    return float(np.mean(np.logaddexp(0.0, logits) - targets * logits))


def _category_loss(labels: NDArray[np.int64], logits: Floats) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(labels.size), labels].mean())


def _recalibration(truths: NDArray[np.bool_], probabilities: Floats) -> tuple[float | None, float | None]:
    """Return slope and intercept of a logistic regression of truth on logit; None for separated classes."""
    clipped = np.clip(probabilities, 1e-9, 1 - 1e-9)
    logits = np.log(clipped) - np.log1p(-clipped)
    lowest, highest = (float(f(logits[truths])) if truths.any() else np.nan for f in (np.min, np.max))
    others = logits[~truths]
    separated = not others.size or not truths.any() or lowest >= others.max() or highest <= others.min()
    if separated:
        return None, None
    targets = truths.astype(np.float64)

    def loss(parameters: Floats) -> float:
        return _binary_loss(targets, parameters[0] * logits + parameters[1])

    optimum = minimize(loss, np.array([1.0, 0.0]), method="BFGS")
    return float(optimum.x[0]), float(optimum.x[1])
