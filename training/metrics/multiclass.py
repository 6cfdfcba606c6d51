"""Several classes at once: the confusion matrix and the classification report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from training.metrics.interval import Estimate, wilson


@dataclass(frozen=True, slots=True)
class ClassReport:
    """One line of the classification report."""

    name: str
    precision: Estimate | None
    recall: Estimate | None
    f1: float | None
    support: int


@dataclass(frozen=True, slots=True)
class ClassificationReport:
    """What the predicted classes are worth; rows of the matrix are truths, columns predictions."""

    names: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    classes: tuple[ClassReport, ...]
    accuracy: Estimate | None
    macro_f1: float | None
    largest_class: float | None  # the accuracy of always naming the most frequent class


def classification_report(label: ArrayLike, predicted: ArrayLike, names: tuple[str, ...]) -> ClassificationReport:
    """Return the confusion matrix and what follows from it.

    Parameters
    ----------
    label, predicted
        (N,): class numbers, from 0.
    names
        Of the classes, in order.

    Raises
    ------
    ValueError
        If the shapes differ or a number is no class.
    """
    labels, guesses = np.asarray(label, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if labels.ndim != 1 or labels.shape != guesses.shape:
        raise ValueError(f"labels and predictions are two lists of one length; got {labels.shape}, {guesses.shape}")
    count = len(names)
    if not np.isin(np.r_[labels, guesses], np.arange(count)).all():
        raise ValueError(f"classes are numbers from 0 to {count - 1}")
    matrix = np.bincount(labels * count + guesses, minlength=count * count).reshape(count, count)
    classes = tuple(_class_report(name, matrix, place) for place, name in enumerate(names))
    scores = [each.f1 for each in classes if each.support and each.f1 is not None]
    return ClassificationReport(
        names=names,
        matrix=tuple(tuple(map(int, row)) for row in matrix),
        classes=classes,
        accuracy=wilson(int(np.trace(matrix)), int(matrix.sum())),
        macro_f1=float(np.mean(scores)) if scores else None,
        largest_class=float(matrix.sum(axis=1).max() / matrix.sum()) if matrix.sum() else None,
    )


def _class_report(name: str, matrix: np.ndarray, place: int) -> ClassReport:
    right, support, named = (int(each) for each in (matrix[place, place], matrix[place].sum(), matrix[:, place].sum()))
    return ClassReport(
        name=name,
        precision=wilson(right, named),
        recall=wilson(right, support),
        f1=2 * right / (support + named) if support + named else None,
        support=support,
    )
