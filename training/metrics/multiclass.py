"""Confusion matrix and classification report of several classes, by scikit-learn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from training.metrics.interval import Estimate, wilson


@dataclass(frozen=True, slots=True)
class ClassReport:
    """One line of the classification report."""

    name: str
    precision: Estimate | None
    recall: Estimate | None  # the sensitivity
    specificity: Estimate | None
    f1: float | None
    support: int


@dataclass(frozen=True, slots=True)
class ClassificationReport:
    """Confusion matrix and its figures; rows of the matrix are true classes, columns predicted ones."""

    names: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    classes: tuple[ClassReport, ...]
    accuracy: Estimate | None
    macro_f1: float | None
    largest_class: float | None  # the accuracy of always predicting the most frequent class


def classification_report(label: ArrayLike, predicted: ArrayLike, names: tuple[str, ...]) -> ClassificationReport:
    """Return the confusion matrix and its figures.

    Parameters
    ----------
    label, predicted
        (N,): class numbers, from 0.
    names
        Of the classes, in order; two or more.

    Raises
    ------
    ValueError
        If the shapes differ or a number is no class.
    """
    labels, predictions = np.asarray(label, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if labels.ndim != 1 or labels.shape != predictions.shape:
        raise ValueError(f"labels and predictions are two lists of one length; got {labels.shape}, {predictions.shape}")
    numbers = np.arange(len(names))
    if not np.isin(np.r_[labels, predictions], numbers).all():
        raise ValueError(f"classes are numbers from 0 to {len(names) - 1}")
    matrix, f1 = np.zeros((len(names), len(names)), dtype=np.int64), np.full(len(names), np.nan)
    if labels.size:  # scikit-learn refuses empty lists
        matrix = confusion_matrix(labels, predictions, labels=numbers)
        _, _, f1, _ = precision_recall_fscore_support(labels, predictions, labels=numbers, zero_division=np.nan)
    classes = tuple(_class_report(name, matrix, index, float(f1[index])) for index, name in enumerate(names))
    scores = [each.f1 for each in classes if each.support and each.f1 is not None]
    return ClassificationReport(
        names=names,
        matrix=tuple(tuple(map(int, row)) for row in matrix),
        classes=classes,
        accuracy=wilson(int(np.trace(matrix)), int(matrix.sum())),
        macro_f1=float(np.mean(scores)) if scores else None,
        largest_class=float(matrix.sum(axis=1).max() / matrix.sum()) if matrix.sum() else None,
    )


def _class_report(name: str, matrix: np.ndarray, index: int, f1: float) -> ClassReport:
    right, support, said = int(matrix[index, index]), int(matrix[index].sum()), int(matrix[:, index].sum())
    others = int(matrix.sum()) - support
    return ClassReport(
        name=name,
        # As counts and not as scikit-learn's ratios: Wilson's intervals need the counts.
        precision=wilson(right, said),
        recall=wilson(right, support),
        specificity=wilson(others - (said - right), others),
        f1=None if math.isnan(f1) else f1,  # NaN: the class occurs among neither labels nor predictions
        support=support,
    )
