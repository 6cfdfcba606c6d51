"""Figures of a cross-validation: the ROC curve and the area of every fold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from training.evaluation.folds import CrossValidation, FoldPredictions
from training.metrics.curves import roc_curve
from training.metrics.interval import Estimate
from training.plots.style import COLOURS, new_figure, save_figure

MOST_CLASSES = 7
"""Largest number of classes that are drawn; the figures of all are in metrics.json."""


def plot_folds(result: CrossValidation, folds: Sequence[FoldPredictions], path: Path) -> None:
    """Draw, for each class, the folds' ROC curves, and their areas above that within all folds.

    Parameters
    ----------
    result
        Made from these folds.
    folds
        The predictions of each fold.
    path
        The PNG to write.
    """
    names = [each.name for each in result.classes][:MOST_CLASSES]
    figure = new_figure(9.5, 4.2 * len(names) + 0.6)
    panels = figure.subplots(len(names), 2, squeeze=False)
    for row, name in enumerate(names):
        _curves(panels[row][0], folds, name)
        _areas(panels[row][1], result, name)
    save_figure(figure, path, f"{result.pooled.dataset}: {len(folds)} folds, {result.pooled.images} images")


def _curves(panel: Axes, folds: Sequence[FoldPredictions], name: str) -> None:
    for number, fold in enumerate(folds, start=1):
        has_truth = fold.predictions.has_truth(name)
        curve = roc_curve(fold.predictions.truth(name)[has_truth], fold.predictions.score(name)[has_truth])
        if curve is not None:
            panel.plot(curve.x, curve.y, color=COLOURS[(number - 1) % len(COLOURS)], label=f"fold {number}")
    panel.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="chance")
    panel.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="1 - specificity", ylabel="sensitivity", title=name)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=8, loc="lower right")


def _areas(panel: Axes, result: CrossValidation, name: str) -> None:
    over_folds = next(each for each in result.classes if each.name == name)
    areas = [next(each for each in fold.classes if each.name == name).auc for fold in result.folds]
    for row, area in enumerate(areas):
        _bar(panel, area, row, COLOURS[row % len(COLOURS)])
    _bar(panel, over_folds.auc_within_folds, len(areas), "black")
    labels = [*(f"fold {fold.fold}" for fold in result.folds), "within folds"]
    panel.set_yticks(range(len(labels)), labels, fontsize=8)
    panel.set(xlim=(0, 1.02), ylim=(len(labels) - 0.4, -0.6), xlabel="ROC AUC, 95 % interval", title=name)
    panel.grid(alpha=0.25, axis="x")


def _bar(panel: Axes, estimate: Estimate | None, row: int, colour: str) -> None:
    if estimate is None:
        return
    panel.plot(estimate.value, row, "o", color=colour, markersize=5)
    if estimate.interval is not None:
        panel.plot([estimate.interval.low, estimate.interval.high], [row] * 2, color=colour)
