"""``cxr train crossval``: the figures of a recipe by k-fold cross-validation."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli.train import (
    CacheFolder,
    Json,
    Manifest,
    MaskModel,
    Overrides,
    Processes,
    Recipe,
    Seed,
    Weights,
    load,
    print_labels,
)

if TYPE_CHECKING:
    from rich.table import Table

    from training.evaluation import ClassEvaluation
    from training.evaluation.folds import ClassOverFolds, CrossValidation, Spread
    from training.metrics.interval import Estimate


def crossval(
    manifest: Manifest,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder of runs and figures; an interrupted command resumes.", metavar="FOLDER"
        ),
    ],
    recipe: Recipe = "default-pretrain",
    start: Annotated[
        Path | None, typer.Option("--from", help="The finished run whose weights each fold starts from.", metavar="RUN")
    ] = None,
    folds: Annotated[int, typer.Option(min=3, help="Folds of patients; each is predicted by a run on the others.")] = 5,
    overrides: Overrides = None,
    seed: Seed = None,
    weights: Weights = None,
    mask_model: MaskModel = None,
    cache_folder: CacheFolder = None,
    processes: Processes = None,
    replicates: Annotated[int, typer.Option(min=100, help="Bootstrap replicates.")] = 2000,
    as_json: Json = False,
) -> None:
    """Train a run for each fold of patients, and write figures of each fold and of all: metrics.json, CARD.md, plots.

    Example: cxr train crossval manifest.csv -o runs/crossval --folds 5 --cache cache
    """
    loaded = load(recipe, overrides, seed, weights, mask_model)
    from training.cli.progress import show_progress
    from training.evaluation.cross_validation_card import CARD_FILE, cross_validation_card
    from training.evaluation.evaluate import METRICS_FILE
    from training.evaluation.folds import evaluate_folds, pool
    from training.files import write_document, write_whole
    from training.plots.curves import plot_confusion, plot_curves, plot_subgroups
    from training.plots.fold_plots import plot_folds
    from training.runs.cross_validation import predict_out_of_fold
    from training.runs.train import Options

    with show_progress() as progress:
        options = Options(cache=cache_folder, processes=processes, progress=progress, show_labels=print_labels)
        found = predict_out_of_fold(
            loaded,
            manifest,
            output,
            folds=folds,
            start=start,
            train_only=loaded.split.train_only,
            now=datetime.now(UTC),
            options=options,
        )
    result = evaluate_folds(found, dataset=manifest.stem, replicates=replicates, seed=loaded.seed)
    write_document(result, output / METRICS_FILE)
    card = cross_validation_card(result, recipe=loaded.name, digest=loaded.digest, seed=loaded.seed)
    write_whole(output / CARD_FILE, card)
    plot_folds(result, found, output / "folds.png")
    plot_curves(result.pooled, pool(found), output / "curves.png")
    plot_subgroups(result.pooled, output / "subgroups.png")
    plot_confusion(result.pooled, output / "confusion.png")
    if as_json:
        typer.echo((output / METRICS_FILE).read_text(encoding="utf-8"))
    else:
        _print(result, output)


def _print(result: CrossValidation, folder: Path) -> None:
    """Print the figures, within 80 columns; intervals stand below their value."""
    from rich.console import Console

    console = Console()
    pooled = result.pooled
    console.print(
        f"{pooled.dataset}: {pooled.images} images in {len(result.folds)} folds. {result.notice}", highlight=False
    )
    for each, of_all in zip(result.classes, pooled.classes, strict=True):
        console.print(_table(result, each, of_all))
    for caution in pooled.cautions:
        typer.echo(f"warning ({caution.code}): {caution.sentence}", err=True)
    typer.echo(f"CARD.md, metrics.json and plots are in {folder}")


def _table(result: CrossValidation, each: ClassOverFolds, of_all: ClassEvaluation) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=each.name, title_justify="left")
    table.add_column("fold", no_wrap=True)
    for heading in ("positive\n/ images", "ROC AUC", "sensitivity", "specificity", "ECE"):
        table.add_column(heading, justify="right", no_wrap=True)
    for fold in result.folds:
        one = next(figures for figures in fold.classes if figures.name == each.name)
        cells = (_cell(one.auc), _cell(one.sensitivity), _cell(one.specificity), _number(one.ece))
        table.add_row(str(fold.fold), f"{one.positives}/{one.images}", *cells)
    table.add_section()
    table.add_row("mean ± SD", "", *(_mean(each.spread[name]) for name in ("auc", "sensitivity", "specificity", "ece")))
    decisions = (_cell(each.auc_within_folds), _cell(each.sensitivity), _cell(each.specificity))
    ece = "" if of_all.calibration is None else f"{of_all.calibration.ece:.3f}"
    table.add_row("all images", f"{of_all.positives}/{of_all.images}", *decisions, ece)
    return table


def _mean(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{spread.mean:.3f}" + ("" if spread.deviation is None else f"\n± {spread.deviation:.3f}")


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    interval = estimate.interval
    return f"{estimate.value:.3f}" + ("" if interval is None else f"\n{interval.low:.3f}-{interval.high:.3f}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
