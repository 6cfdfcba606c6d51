"""Figures of an evaluation: ROC, precision-recall, reliability, decision curve, subgroups, confusion, training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cxr.errors import PredictionsError
from training.evaluation import Evaluation, Predictions
from training.metrics.curves import precision_recall_curve, roc_curve
from training.metrics.interval import Estimate
from training.plots.style import COLOURS, new_figure, save_figure, short_name

MOST_CLASSES = len(COLOURS)
"""Largest number of classes that are drawn; the figures of all are in metrics.json."""


def plot_curves(evaluation: Evaluation, predictions: Predictions, path: Path) -> None:
    """Draw ROC, precision-recall, reliability and decision curves of the first seven classes into one PNG.

    Parameters
    ----------
    evaluation
        Made from these predictions.
    predictions
        Of the images.
    path
        The PNG to write.
    """
    figure = new_figure(11, 10.4)
    panels = figure.subplots(2, 2).ravel()
    for draw, panel in zip((_roc, _precision_recall, _reliability, _decision), panels, strict=True):
        draw(panel, evaluation, predictions)
        panel.grid(alpha=0.25)
        panel.legend(fontsize=8, loc="best")
    save_figure(figure, path, f"{evaluation.dataset}: {_size(evaluation)}")


def plot_subgroups(evaluation: Evaluation, path: Path) -> None:
    """Draw each subgroup's area with its interval beside the area of all images, one panel per class."""
    classes = [each for each in evaluation.classes if each.auc is not None][:MOST_CLASSES]
    rows = max((sum(group.auc is not None for group in each.subgroups) for each in classes), default=0)
    figure = new_figure(5.5 * max(1, len(classes)), 1.8 + 0.3 * max(3, rows))
    for panel, figures in zip(figure.subplots(1, max(1, len(classes)), squeeze=False)[0], classes, strict=False):
        areas = [(group, group.auc) for group in figures.subgroups if group.auc is not None]
        for row, (group, auc) in enumerate(areas):
            is_flagged = any(flag.startswith("auc") for flag in group.flags)
            colour = COLOURS[1] if is_flagged else "#999999" if group.is_small else COLOURS[0]
            _bar(panel, auc, row, colour)
        labels = [f"{each.attribute} {short_name(each.value)} ({each.positives}/{each.images})" for each, _ in areas]
        panel.set_yticks(range(len(areas)), labels, fontsize=8)
        panel.set(xlim=(0, 1.02), ylim=(max(1, len(areas)) - 0.4, -0.6), xlabel="ROC AUC, 95 % interval")
        if figures.auc is not None:
            panel.axvline(figures.auc.value, color="black", linewidth=1)
        panel.set_title(figures.name, fontsize=9)
        panel.grid(alpha=0.25, axis="x")
    save_figure(
        figure,
        path,
        f"{evaluation.dataset}: subgroups (positives/images)\nline: all images; orange: flagged; grey: few images",
    )


def plot_confusion(evaluation: Evaluation, path: Path) -> None:
    """Draw the confusion matrix of the evaluation, if it has one."""
    if evaluation.report is None:
        return
    names, matrix = evaluation.report.names, np.array(evaluation.report.matrix)
    figure = new_figure(2.6 + 1.1 * len(names), 2.4 + 1.0 * len(names))
    panel = figure.subplots()
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        colour = "white" if shares[row, column] > 0.55 else "black"
        text = f"{count}\n{shares[row, column]:.0%}"
        panel.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    panel.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.set(xlabel="predicted", ylabel="label")
    save_figure(figure, path, f"{evaluation.dataset}: confusion")


def plot_history(history: Path, path: Path) -> None:
    """Draw the training curves of a run's ``history.csv``: each column with its ``val_`` column, over epochs from 1.

    Raises
    ------
    PredictionsError
        If the file can't be read or has no column of numbers.
    """
    try:
        table = pd.read_csv(history)
    except (OSError, ValueError) as error:
        raise PredictionsError(
            f"The training history {history.name} can't be read ({type(error).__name__}); the training run writes it."
        ) from error
    numbers = table.select_dtypes("number")
    epochs = 1 + (numbers["epoch"] if "epoch" in numbers else pd.Series(range(len(numbers))))
    stems = list(dict.fromkeys(str(name).removeprefix("val_") for name in numbers.columns if name != "epoch"))
    if not stems:
        raise PredictionsError(f"The training history {history.name} has no column of numbers besides epoch.")
    columns = min(3, len(stems))
    figure = new_figure(4.2 * columns, 3.3 * -(-len(stems) // columns) + 0.8)
    panels = figure.subplots(-(-len(stems) // columns), columns, squeeze=False).ravel()
    for panel, stem in zip(panels, stems, strict=False):
        for name, colour, label in ((stem, COLOURS[0], "training"), (f"val_{stem}", COLOURS[1], "validation")):
            if name in numbers:
                panel.plot(epochs, numbers[name], color=colour, marker=".", label=label)
        if "stage" in table:
            for border in np.flatnonzero(table["stage"].ne(table["stage"].shift()).to_numpy())[1:]:
                panel.axvline(float(epochs.iloc[border]) - 0.5, color="grey", linestyle=":", linewidth=1)
        if stem == "learning_rate":
            panel.set_yscale("log")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set(title=stem.replace("_", " "), xlabel="epoch")
        panel.grid(alpha=0.25)
        panel.legend(fontsize=8)
    for panel in panels[len(stems) :]:
        panel.set_visible(False)
    save_figure(figure, path, "training")


def _roc(panel: Axes, evaluation: Evaluation, predictions: Predictions) -> None:
    for name, colour, truth, score in _classes(predictions):
        figures = evaluation.of(name)
        if (curve := roc_curve(truth, score)) is None:
            continue
        panel.plot(curve.x, curve.y, color=colour, label=f"{name} {figures.auc}")
        at = figures.at_threshold
        if at is not None and at.sensitivity is not None and at.specificity is not None:
            panel.plot(1 - at.specificity.value, at.sensitivity.value, "o", color=colour, markersize=7)
    panel.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="chance")
    has_dots = any(each.at_threshold is not None for each in evaluation.classes)
    panel.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title=f"ROC{' (dot: operating point)' if has_dots else ''}")
    panel.set(xlabel="1 - specificity", ylabel="sensitivity")


def _precision_recall(panel: Axes, evaluation: Evaluation, predictions: Predictions) -> None:
    for name, colour, truth, score in _classes(predictions):
        figures = evaluation.of(name)
        if (curve := precision_recall_curve(truth, score)) is None:
            continue
        panel.step(
            np.r_[0.0, curve.x],
            np.r_[curve.y[0], curve.y],
            where="pre",
            color=colour,
            label=f"{name} {figures.average_precision}",
        )
        panel.axhline(float(truth.mean()), color=colour, linestyle="--", linewidth=1)
    panel.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), title="precision-recall (dashed: prevalence)")
    panel.set(xlabel="sensitivity", ylabel="positive predictive value")


def _reliability(panel: Axes, evaluation: Evaluation, predictions: Predictions) -> None:
    for name, colour, _, _ in _classes(predictions):
        if (calibration := evaluation.of(name).calibration) is None:
            continue
        for each in calibration.bins:
            if each.observed.interval is not None:
                ends = [each.observed.interval.low, each.observed.interval.high]
                panel.plot([each.mean_probability] * 2, ends, color=colour, alpha=0.4)
        means = [each.mean_probability for each in calibration.bins]
        fractions = [each.observed.value for each in calibration.bins]
        panel.plot(means, fractions, color=colour, marker="o", markersize=4, label=f"{name} ECE {calibration.ece:.3f}")
    panel.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfect")
    panel.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title="reliability (bars: 95 % interval)")
    panel.set(xlabel="mean probability of the bin", ylabel="observed fraction")


def _decision(panel: Axes, evaluation: Evaluation, predictions: Predictions) -> None:
    top = 0.05
    for name, colour, _, _ in _classes(predictions):
        if (curve := evaluation.of(name).decision_curve) is None:
            continue
        panel.plot(curve.thresholds, curve.model, color=colour, label=name)
        panel.plot(curve.thresholds, curve.treat_all, color=colour, linestyle="--", linewidth=1)
        top = max(top, curve.prevalence)
    panel.axhline(0, color="black", linewidth=1, label="treat none")
    panel.set(xlim=(0, 1), ylim=(-0.35 * top, 1.1 * top), title="decision curve (dashed: treat all)")
    panel.set(xlabel="threshold probability", ylabel="net benefit per image")


def _classes(predictions: Predictions) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    return [
        (name, colour, predictions.truth(name)[has_truth], predictions.score(name)[has_truth])
        for name, colour in zip(predictions.classes, COLOURS, strict=False)
        for has_truth in (predictions.has_truth(name),)
    ]


def _bar(panel: Axes, estimate: Estimate, row: int, colour: str) -> None:
    panel.plot(estimate.value, row, "o", color=colour, markersize=5)
    if estimate.interval is not None:
        panel.plot([estimate.interval.low, estimate.interval.high], [row] * 2, color=colour)


def _size(evaluation: Evaluation) -> str:
    patients = "patients unknown: image-wise, not for claims"
    if evaluation.patients is not None:
        patients = f"{evaluation.patients} patients"
    return f"{evaluation.images} images, {patients}"
