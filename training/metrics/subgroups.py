"""Figures of subgroups (sex, age, view, site...) at the one threshold of the model.

References
----------
Seyyed-Kalantari et al., Nature Medicine 2021;27:2176 (under-diagnosis of under-served groups).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from training.metrics.arrays import group_codes, truths_and_scores
from training.metrics.auc import roc_auc_with_interval
from training.metrics.interval import Estimate
from training.metrics.operating_point import evaluate_at

UNKNOWN = "unknown"
AGE_BANDS = ((0, 18), (18, 40), (40, 60), (60, 80), (80, 200))
"""Years, the upper end excluded."""

FEW = 10
"""A figure of fewer images than this is shown, but not flagged."""


@dataclass(frozen=True, slots=True)
class Subgroup:
    """Figures of the images that share one value of one attribute."""

    attribute: str  # sex, age, view, site, manufacturer, source
    value: str
    images: int
    patients: int
    positives: int
    auc: Estimate | None
    sensitivity: Estimate | None
    specificity: Estimate | None
    flags: tuple[str, ...]  # figures whose interval excludes the figure of all images
    is_small: bool  # too few positives or negatives to flag its area


def age_band(age: float | None) -> str:
    """Return the band of an age in years, e.g. ``40-59``; ``unknown`` for None or NaN."""
    if age is None or not np.isfinite(age):
        return UNKNOWN
    for low, high in AGE_BANDS:
        if low <= age < high:
            return f"{low}-{high - 1}" if high < 200 else f"{low}+"
    return UNKNOWN


def subgroup_table(
    truth: ArrayLike,
    score: ArrayLike,
    attributes: Mapping[str, Sequence[str]],
    groups: ArrayLike | None = None,
    *,
    threshold: float | None = None,
    alarm_score: ArrayLike | None = None,
) -> tuple[Subgroup, ...]:
    """Return the figures of each value of each attribute, at the one threshold.

    Parameters
    ----------
    truth, score
        (N,).
    attributes
        Name to (N,) values; an empty value is ``unknown``. An attribute with one value is left out.
    groups
        (N,): the patient of each image; None if each image is of another patient.
    threshold
        The operating point; None for no sensitivity and specificity.
    alarm_score
        (N,): values that are compared with the threshold; None: `score`.

    Returns
    -------
    tuple[Subgroup, ...]
        Sorted by attribute (as given) and value.
    """
    truths, scores = truths_and_scores(truth, score)
    alarms = scores if alarm_score is None else truths_and_scores(truth, alarm_score)[1]
    codes = group_codes(groups, truths.size)
    every_image = np.ones(truths.size, dtype=bool)
    overall = _figures(truths, scores, alarms, codes, every_image, threshold)
    table = []
    for attribute, values in attributes.items():
        names = np.array([str(value) or UNKNOWN for value in values], dtype=object)
        kinds = sorted(set(names))
        if len(kinds) < 2:
            continue
        for value in kinds:
            mask = np.asarray(names == value)
            figures = _figures(truths, scores, alarms, codes, mask, threshold)
            positives = int(truths[mask].sum())
            is_small = min(positives, int(mask.sum()) - positives) < FEW
            table.append(
                Subgroup(
                    attribute=attribute,
                    value=value,
                    images=int(mask.sum()),
                    patients=int(np.unique(codes[mask]).size),
                    positives=positives,
                    **figures,
                    flags=_flags(figures, overall, positives, int(mask.sum()) - positives),
                    is_small=is_small,
                )
            )
    return tuple(table)


def _figures(
    truths: np.ndarray,
    scores: np.ndarray,
    alarms: np.ndarray,
    codes: np.ndarray,
    mask: np.ndarray,
    threshold: float | None,
) -> dict[str, Estimate | None]:
    at = None if threshold is None else evaluate_at(truths[mask], alarms[mask], threshold)
    return {
        "auc": roc_auc_with_interval(truths[mask], scores[mask], codes[mask]),
        "sensitivity": None if at is None else at.sensitivity,
        "specificity": None if at is None else at.specificity,
    }


def _flags(
    figures: Mapping[str, Estimate | None], overall: Mapping[str, Estimate | None], positives: int, negatives: int
) -> tuple[str, ...]:
    counts = {"auc": min(positives, negatives), "sensitivity": positives, "specificity": negatives}
    flags = []
    for name, figure in figures.items():
        whole = overall[name]
        if counts[name] < FEW or figure is None or whole is None or figure.interval is None:
            continue
        if not figure.interval.holds(whole.value):
            flags.append(f"{name} {'below' if figure.value < whole.value else 'above'} that of all images")
    return tuple(flags)
