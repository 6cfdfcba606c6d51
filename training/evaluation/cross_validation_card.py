"""CARD.md of a cross-validation: what a reader may take from it, then every figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from training.evaluation.folds import CrossValidation, FoldFigures
from training.metrics.interval import Estimate

CARD_FILE = "CARD.md"
NONE = "not known"


def cross_validation_card(result: CrossValidation, *, recipe: str, digest: str, seed: int) -> str:
    """Return the card as Markdown.

    Parameters
    ----------
    result
        The figures.
    recipe, digest, seed
        Of the recipe that every fold was trained by.
    """
    pooled = result.pooled
    patients = "patients unknown" if pooled.patients is None else f"{pooled.patients} patients"
    warnings = [f"* {each.sentence}" for each in pooled.cautions]
    parts = [
        f"# Cross-validation of {recipe}",
        f"**{result.notice}.** {len(result.folds)} folds of {pooled.dataset}: {pooled.images} images, {patients}. "
        "Every image was predicted once, by a run that was trained and chosen on other patients; the next fold chose "
        "its epoch, calibration and threshold.",
        "These figures are of the recipe, not of one model: to have a model, train a run by the same recipe.",
        *(("## Do not trust these figures without reading this", "\n".join(warnings)) if warnings else ()),
        "## All images",
        _pooled(result),
        _matrix(result),
        "## Mean and spread of the folds",
        _spread(result),
        "The folds share most of their training images: the deviation says how much figures vary from fold to fold, "
        "and is no standard error. Intervals are those of all images above.",
        "## Each fold",
        *(f"### {each.name}\n\n{_folds(result.folds, each.name)}" for each in result.classes),
        "## Reproduction",
        f"Recipe `{digest}`, seed {seed}. Intervals are at {pooled.confidence:.0%}: DeLong's for areas (Obuchowski's "
        "where a patient has several images), weighted by pairs within the folds; Wilson's for proportions; "
        f"{pooled.replicates} draws of patients with seed {pooled.seed} for the average precision. Runs: "
        + ", ".join(f"`{each.run[:12]}`" for each in result.folds)
        + ".",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _pooled(result: CrossValidation) -> str:
    rows = []
    for each, pooled in zip(result.classes, result.pooled.classes, strict=True):
        areas = (each.auc_within_folds, pooled.auc, pooled.average_precision)
        decisions = (each.sensitivity, each.specificity, each.ppv, each.npv)
        rows.append(
            [each.name, f"{pooled.positives} / {pooled.images}", *map(_estimate, areas), *map(_estimate, decisions)]
        )
    by = "the largest score" if result.pooled.kind == "multiclass" else "the threshold of each image's own fold"
    heads = ("class", "positive / images", "ROC AUC within folds", "ROC AUC of all pairs", "average precision",
             "sensitivity", "specificity", "PPV", "NPV")  # fmt: skip
    return (
        f"{_table(heads, rows)}\n\nThe area within folds compares images that one model scored; that of all pairs also "
        f"compares scores of different models. Decisions are by {by}."
    )


def _matrix(result: CrossValidation) -> str:
    report = result.pooled.report
    if report is None:
        return ""
    rows = [[name, *map(str, row)] for name, row in zip(report.names, report.matrix, strict=True)]
    largest = NONE if report.largest_class is None else f"{report.largest_class:.3f}"
    matrix = _table(("label \\ model", *report.names), rows)
    return (
        f"{matrix}\n\nAccuracy {_estimate(report.accuracy)}; that of always "
        f"saying the largest class is {largest}; mean of the folds {result.accuracy or NONE}."
    )


def _spread(result: CrossValidation) -> str:
    names = ("auc", "average_precision", "sensitivity", "specificity", "ece")
    heads = ("class", "ROC AUC", "average precision", "sensitivity", "specificity", "ECE")
    rows = [[each.name, *(str(each.spread[name] or NONE) for name in names)] for each in result.classes]
    return f"{_table(heads, rows)}\n\nMean ± standard deviation (lowest to highest)."


def _folds(folds: Sequence[FoldFigures], name: str) -> str:
    has_thresholds = any(each.threshold is not None for fold in folds for each in fold.classes)
    heads = ["fold", "positive / images", "ROC AUC", "average precision", "sensitivity", "specificity", "ECE"]
    heads += ["threshold"] if has_thresholds else []
    rows = []
    for fold in folds:
        each = next(figures for figures in fold.classes if figures.name == name)
        numbers = [_estimate(each.sensitivity), _estimate(each.specificity), _number(each.ece)]
        numbers += [_number(each.threshold)] if has_thresholds else []
        areas = (_estimate(each.auc), _estimate(each.average_precision))
        rows.append([str(fold.fold), f"{each.positives} / {each.images}", *areas, *numbers])
    return _table(heads, rows)


def _estimate(estimate: Estimate | None) -> str:
    return NONE if estimate is None else str(estimate)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    # A bar in a name would open a column.
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
