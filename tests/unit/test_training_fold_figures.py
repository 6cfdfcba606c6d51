"""Figures of a cross-validation against scikit-learn and counts by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, roc_auc_score

from training.evaluation import tabulate
from training.evaluation.cross_validation_card import cross_validation_card
from training.evaluation.folds import CrossValidation, FoldPredictions, evaluate_folds
from training.metrics.calibration import sigmoid, softmax_rows

SIZES = (40, 50, 60)
THRESHOLDS = (0.3, 0.5, 0.7)
OFFSETS = (-2.0, 0.0, 2.0)  # the folds' models are on different scales


def fold_of(number: int, random: np.random.Generator, *, classes: int = 1, known: float = 1.0) -> FoldPredictions:
    """Draw one fold: one class, several labels (``known`` below 1), or classes that exclude each other."""
    size, names = SIZES[number], ("covid19", "pneumonia", "normal")[:classes]
    images, patients = ([f"{number}:{row // count}" for row in range(size)] for count in (1, 2))
    cases = pd.DataFrame({"image_id": images, "patient_id": patients, "source": "drawn"})
    if known < 1:
        truth = (random.random((size, classes)) < 0.4).astype(float)
        logits = random.normal(size=(size, classes)) + truth + OFFSETS[number]
        truth[random.random((size, classes)) > known] = np.nan
        found = tabulate(cases, names, logits=logits, probabilities=sigmoid(logits), truth=truth)
    elif classes == 1:
        y = (random.random(size) < 0.4).astype(float)
        logits = (random.normal(size=size) + y + OFFSETS[number])[:, None]
        found = tabulate(cases, names, logits=logits, probabilities=sigmoid(logits), truth=y)
    else:
        y = random.integers(0, classes, size)
        logits = random.normal(size=(size, classes)) + np.eye(classes)[y]
        found = tabulate(cases, names, logits=logits, probabilities=softmax_rows(logits), truth=y)
    thresholds = {} if classes > 1 and known == 1 else dict.fromkeys(names, THRESHOLDS[number])
    return FoldPredictions(found, thresholds, f"{number}" * 64)


def folds_of(**kinds: float) -> tuple[list[FoldPredictions], CrossValidation]:
    random = np.random.default_rng(7)
    folds = [fold_of(number, random, **kinds) for number in range(3)]  # type: ignore[arg-type]
    return folds, evaluate_folds(folds, dataset="drawn", replicates=100)


def test_areas_are_of_each_fold_their_mean_and_within_folds() -> None:
    folds, result = folds_of()
    areas, pairs = [], []
    for fold in folds:
        truth = fold.predictions.truth("covid19")
        areas.append(roc_auc_score(truth, fold.predictions.score("covid19")))
        pairs.append(truth.sum() * (~truth).sum())
    (over,) = result.classes
    assert [fold.classes[0].auc.value for fold in result.folds] == pytest.approx(areas)  # type: ignore[union-attr]
    spread = over.spread["auc"]
    assert spread is not None
    assert (spread.folds, spread.lowest, spread.highest) == (3, min(areas), max(areas))
    assert (spread.mean, spread.deviation) == pytest.approx((np.mean(areas), np.std(areas, ddof=1)))
    within, pooled = over.auc_within_folds, result.pooled.classes[0].auc
    assert within is not None
    assert pooled is not None
    assert within.value == pytest.approx(np.average(areas, weights=pairs))
    assert within.interval is not None
    assert within.interval.holds(within.value)
    assert pooled.value < within.value - 0.05  # what the scales of the models do


def test_every_image_is_decided_by_its_own_folds_threshold() -> None:
    folds, result = folds_of()
    truth = np.concatenate([fold.predictions.truth("covid19") for fold in folds])
    pairs = zip(folds, THRESHOLDS, strict=True)
    said = np.concatenate([fold.predictions.probability("covid19") >= threshold for fold, threshold in pairs])
    (over,) = result.classes
    report = result.pooled.report
    assert report is not None
    assert np.array_equal(report.matrix, confusion_matrix(truth, said))
    figures = (over.sensitivity, over.specificity, over.ppv, over.npv)
    expected = (said[truth].mean(), (~said[~truth]).mean(), truth[said].mean(), (~truth[~said]).mean())
    assert [each.value for each in figures if each is not None] == pytest.approx(expected)
    accuracies = [
        accuracy_score(fold.predictions.truth("covid19"), fold.predictions.probability("covid19") >= threshold)
        for fold, threshold in zip(folds, THRESHOLDS, strict=True)
    ]
    assert result.accuracy is not None
    assert result.accuracy.mean == pytest.approx(np.mean(accuracies))


def test_classes_that_exclude_each_other_are_decided_by_the_largest_score() -> None:
    folds, result = folds_of(classes=3)
    y = np.concatenate([fold.predictions.frame["y"] for fold in folds])
    said = np.concatenate([fold.predictions.logits().argmax(axis=1) for fold in folds])
    assert result.pooled.report is not None
    assert np.array_equal(result.pooled.report.matrix, confusion_matrix(y, said))
    for number, each in enumerate(result.classes):
        assert each.sensitivity is not None
        assert each.sensitivity.value == pytest.approx((said[y == number] == number).mean())


def test_several_labels_count_where_they_are_known() -> None:
    folds, result = folds_of(classes=2, known=0.7)
    for each in result.classes:
        said = [fold.predictions.probability(each.name) >= limit for fold, limit in zip(folds, THRESHOLDS, strict=True)]
        has = np.concatenate([fold.predictions.truth(each.name) for fold in folds])
        assert each.sensitivity is not None
        assert each.sensitivity.value == pytest.approx(np.concatenate(said)[has].mean())
    assert result.pooled.report is None


def test_the_card_leads_with_what_it_is_and_names_every_fold() -> None:
    _, result = folds_of()
    card = cross_validation_card(result, recipe="default-pretrain", digest="0" * 64, seed=3)
    assert card.index(result.notice) < card.index("## All images") < card.index("## Each fold")
    assert str(result.classes[0].auc_within_folds) in card
    for fold in result.folds:
        assert f"| {fold.fold} | {fold.classes[0].positives} / {fold.images} | {fold.classes[0].auc} |" in card
    for caution in result.pooled.cautions:
        assert caution.sentence in card
