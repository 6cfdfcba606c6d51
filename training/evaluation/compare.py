"""Paired comparison of two models over the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxr.errors import PredictionsError
from training.evaluation.predictions import Predictions
from training.metrics.auc import PairedComparison, compare_auc
from training.metrics.interval import CONFIDENCE


@dataclass(frozen=True, slots=True)
class ClassComparison:
    """Two models' areas for one class, first minus second; by paired DeLong."""

    name: str
    images: int
    positives: int
    auc: PairedComparison | None  # None: all images are positive, or all negative


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models over the images that both predicted."""

    first: str
    second: str
    images: int
    only_first: int  # images without a prediction of the second: left out
    only_second: int
    is_image_wise: bool
    confidence: float
    classes: tuple[ClassComparison, ...]


def compare(first: Predictions, second: Predictions, *, names: tuple[str, str] = ("first", "second")) -> Comparison:
    """Compare two models over the images that both predicted, for the classes that both have.

    Parameters
    ----------
    first, second
        Their predictions; images are matched by ``image_id``.
    names
        Of the models, for messages and reports.

    Raises
    ------
    PredictionsError
        If they share no image or class, or disagree about an image's truth.
    """
    classes = tuple(name for name in first.classes if name in second.classes)
    if not classes:
        raise PredictionsError(
            f"The models share no class: one has {', '.join(first.classes)}, the other {', '.join(second.classes)}."
        )
    one, other = (
        dict(zip(each.frame["image_id"], range(len(each)), strict=True)) for each in (first, second)
    )  # image_id -> row
    common = [image for image in one if image in other]
    if not common:
        raise PredictionsError("The models share no image; predict the same manifest with both.")
    rows, other_rows = np.array([one[image] for image in common]), np.array([other[image] for image in common])
    return Comparison(
        first=names[0],
        second=names[1],
        images=len(common),
        only_first=len(one) - len(common),
        only_second=len(other) - len(common),
        is_image_wise=first.is_image_wise or second.is_image_wise,
        confidence=CONFIDENCE,
        classes=tuple(_class(first, second, name, rows, other_rows) for name in classes),
    )


def _class(
    first: Predictions, second: Predictions, name: str, rows: np.ndarray, other_rows: np.ndarray
) -> ClassComparison:
    has_truth = first.has_truth(name)[rows] & second.has_truth(name)[other_rows]
    rows, other_rows = rows[has_truth], other_rows[has_truth]
    truth = first.truth(name)[rows]
    if differing := int((truth != second.truth(name)[other_rows]).sum()):
        raise PredictionsError(
            f"The two files disagree about {name} in {differing} images: they were made from different labels; "
            "predict the same manifest with both."
        )
    comparison = compare_auc(truth, first.score(name)[rows], second.score(name)[other_rows], first.patients[rows])
    return ClassComparison(name=name, images=int(truth.size), positives=int(truth.sum()), auc=comparison)
