"""Figures of a k-fold cross-validation: of each fold, their mean and spread, and pooled over all images.

The folds share most of their training images, so that the standard deviation between them says how much the figures
vary, and is no standard error of their mean; intervals are those of the pooled images, by patient.

References
----------
Bengio, Grandvalet, JMLR 2004;5:1089 (no unbiased estimate of the variance of k-fold cross-validation).
Airola et al., CSDA 2011;55:1828 (areas over pairs of different folds compare scores of different models).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cxr.product import NOTICE
from training.evaluation.evaluate import evaluate
from training.evaluation.predictions import Booleans, Predictions, check
from training.evaluation.results import Evaluation
from training.metrics import bootstrap
from training.metrics.interval import Estimate
from training.metrics.multiclass import classification_report
from training.metrics.operating_point import evaluate_at
from training.metrics.stratified import stratified_auc

FORMAT = 1
"""Of the ``metrics.json`` of a cross-validation."""


@dataclass(frozen=True, slots=True)
class FoldPredictions:
    """The test predictions of one fold's run, with the thresholds that it chose on its validation images."""

    predictions: Predictions
    thresholds: Mapping[str, float]
    fingerprint: str  # of the run


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldClass:
    """The figures of one class in one fold."""

    name: str
    images: int
    positives: int
    auc: Estimate | None
    average_precision: Estimate | None
    threshold: float | None
    sensitivity: Estimate | None  # at the threshold; multi-class: by the largest score
    specificity: Estimate | None
    ece: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldFigures:
    """The figures of one fold's run over its test images."""

    fold: int  # from 1
    run: str  # fingerprint
    images: int
    patients: int | None  # None: some image's patient is unknown
    accuracy: Estimate | None
    classes: tuple[FoldClass, ...]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the folds that have it; the deviation is of a sample (N - 1), None with one fold."""

    folds: int
    mean: float
    deviation: float | None
    lowest: float
    highest: float

    def __str__(self) -> str:
        deviation = "" if self.deviation is None else f" ± {self.deviation:.3f}"
        return f"{self.mean:.3f}{deviation} ({self.lowest:.3f} to {self.highest:.3f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassOverFolds:
    """One class over all folds."""

    name: str
    auc_within_folds: Estimate | None  # pairs of images of one fold, so of one model
    sensitivity: Estimate | None  # every image by its own fold's threshold; multi-class: by the largest score
    specificity: Estimate | None
    ppv: Estimate | None
    npv: Estimate | None
    spread: Mapping[str, Spread | None]  # auc, average_precision, sensitivity, specificity, ece


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidation:
    """All figures of a cross-validation: the content of its ``metrics.json``."""

    folds: tuple[FoldFigures, ...]
    classes: tuple[ClassOverFolds, ...]
    accuracy: Spread | None
    pooled: Evaluation  # of all images, without a threshold: each fold has its own
    format: int = FORMAT
    notice: str = NOTICE


def pool(folds: Iterable[FoldPredictions]) -> Predictions:
    """Concatenate the predictions of the folds.

    Raises
    ------
    PredictionsError
        If an image is in two folds.
    """
    return check(pd.concat([fold.predictions.frame for fold in folds], ignore_index=True))


def evaluate_folds(
    folds: Sequence[FoldPredictions],
    *,
    dataset: str,
    replicates: int = bootstrap.REPLICATES,
    seed: int = 0,
) -> CrossValidation:
    """Return every figure of a cross-validation.

    Parameters
    ----------
    folds
        Of one recipe; no image and no patient is in two.
    dataset
        Description of the images.
    replicates, seed
        As in ``training.evaluation.evaluate.evaluate``.
    """
    figures = tuple(
        _fold_figures(number, fold, replicates=replicates, seed=seed) for number, fold in enumerate(folds, start=1)
    )
    pooled = pool(folds)
    fold_of_image = np.concatenate([np.full(len(fold.predictions), number) for number, fold in enumerate(folds)])
    evaluation = evaluate(pooled, dataset=dataset, replicates=replicates, seed=seed)
    classes = tuple(_class_over_folds(name, folds, figures, pooled, fold_of_image) for name in pooled.classes)
    if pooled.kind == "binary" and (said := _said(folds, pooled.classes[0])) is not None:
        names = (f"not {pooled.classes[0]}", pooled.classes[0])
        evaluation = replace(evaluation, report=classification_report(pooled.frame["y"], said.astype(int), names))
    accuracies = [None if each.accuracy is None else each.accuracy.value for each in figures]
    return CrossValidation(folds=figures, classes=classes, accuracy=_spread(accuracies), pooled=evaluation)


def _fold_figures(number: int, fold: FoldPredictions, *, replicates: int, seed: int) -> FoldFigures:
    evaluation = evaluate(
        fold.predictions, thresholds=fold.thresholds, dataset=f"fold {number}", replicates=replicates, seed=seed
    )
    return FoldFigures(
        fold=number,
        run=fold.fingerprint,
        images=evaluation.images,
        patients=evaluation.patients,
        accuracy=None if evaluation.report is None else evaluation.report.accuracy,
        classes=tuple(
            FoldClass(
                name=each.name,
                images=each.images,
                positives=each.positives,
                auc=each.auc,
                average_precision=each.average_precision,
                threshold=fold.thresholds.get(each.name),
                sensitivity=evaluation.sensitivity(each.name),
                specificity=evaluation.specificity(each.name),
                ece=None if each.calibration is None else each.calibration.ece,
            )
            for each in evaluation.classes
        ),
    )


def _class_over_folds(
    name: str,
    folds: Sequence[FoldPredictions],
    figures: Sequence[FoldFigures],
    pooled: Predictions,
    fold_of_image: np.ndarray,
) -> ClassOverFolds:
    has_truth = pooled.has_truth(name)
    truth = pooled.truth(name)[has_truth]
    said = _said(folds, name)
    # The folds' thresholds differ: what each fold's model said is counted, not a score.
    at = None if said is None else evaluate_at(truth, said[has_truth].astype(float), 0.5)
    of_folds = [each for fold in figures for each in fold.classes if each.name == name]
    estimates = ("auc", "average_precision", "sensitivity", "specificity")
    spread = {figure: _spread([_value(getattr(each, figure)) for each in of_folds]) for figure in estimates}
    return ClassOverFolds(
        name=name,
        auc_within_folds=stratified_auc(
            truth, pooled.score(name)[has_truth], fold_of_image[has_truth], pooled.patients[has_truth]
        ),
        sensitivity=None if at is None else at.sensitivity,
        specificity=None if at is None else at.specificity,
        ppv=None if at is None else at.ppv,
        npv=None if at is None else at.npv,
        spread=spread | {"ece": _spread([each.ece for each in of_folds])},
    )


def _said(folds: Sequence[FoldPredictions], name: str) -> Booleans | None:
    """Return (N,): whether the model of its fold says a class of each image; None if a fold has no threshold."""
    said = [fold.predictions.said(name, fold.thresholds.get(name)) for fold in folds]
    parts = [each for each in said if each is not None]
    return np.concatenate(parts) if len(parts) == len(said) else None


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if not known.size:
        return None
    deviation = float(known.std(ddof=1)) if known.size > 1 else None
    return Spread(int(known.size), float(known.mean()), deviation, float(known.min()), float(known.max()))
