"""``cxr train evaluate`` and ``compare``: figures and plots from predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from training.evaluation import Comparison, Evaluation, Predictions
    from training.metrics.interval import Estimate
    from training.metrics.multiclass import ClassificationReport

TEST_PREDICTIONS = "predictions_test.csv"
HISTORY = "history.csv"

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(help="A predictions file, or a run's folder (its predictions_test.csv).", metavar="PREDICTIONS"),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder. Default: the run's, or NAME-evaluation beside the file NAME.csv.",
            metavar="FOLDER",
        ),
    ] = None,
    operating_point: Annotated[
        Path | None,
        typer.Option(
            help="Thresholds chosen on validation images. Default: the file beside the predictions.", metavar="FILE"
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None, typer.Option(help="A threshold instead; repeatable.", metavar="CLASS=VALUE")
    ] = None,
    prevalence: Annotated[
        list[float] | None, typer.Option(help="Prevalence for predictive values; repeatable. Default: 0.05.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the images. Default: the file's name.")] = None,
    replicates: Annotated[int, typer.Option(min=100, help="Bootstrap replicates.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    gallery: Annotated[
        bool,
        typer.Option(
            "--gallery",
            help="For a run: also plot evidence maps, or Grad-CAM for other heads; this needs its model.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write metrics.json, plots and suspects.csv from predictions; no model is needed.

    Example: cxr train evaluate runs/finetune --prevalence 0.05 --prevalence 0.2
    """
    from training.evaluation import read_predictions, write_evaluation
    from training.evaluation.evaluate import PREVALENCES, refuse_other_evaluation
    from training.evaluation.evaluate import evaluate as make_figures

    file = predictions / TEST_PREDICTIONS if predictions.is_dir() else predictions
    table = read_predictions(file)
    prevalences = tuple(prevalence or PREVALENCES)
    if not all(0 < each < 1 for each in prevalences):
        raise typer.BadParameter("a prevalence lies between 0 and 1", param_hint="--prevalence")
    folder = output or _own_folder(file)
    refuse_other_evaluation(folder, file, is_own=output is None)
    figures = make_figures(
        table,
        thresholds=_thresholds(threshold or (), operating_point, file, table),
        dataset=name or file.stem,
        prevalences=prevalences,
        replicates=replicates,
        seed=seed,
    )
    write_evaluation(figures, folder, of_file=file)
    _draw(figures, table, folder, file.parent / HISTORY)
    if gallery:
        _draw_gallery(predictions, figures, table, folder)
    if as_json:
        typer.echo((folder / "metrics.json").read_text(encoding="utf-8"))
    else:
        _print(figures, folder)


def compare(
    first: Annotated[Path, typer.Argument(help="Predictions file or run's folder.", metavar="FIRST")],
    second: Annotated[Path, typer.Argument(help="The other, of the same images.", metavar="SECOND")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the comparison as JSON.", metavar="FILE")
    ] = None,
    as_json: Json = False,
) -> None:
    """Test whether one of two models is better on the same images (paired DeLong).

    Example: cxr train compare runs/before runs/after
    """
    from training.evaluation import read_predictions
    from training.evaluation.compare import compare as make_comparison
    from training.files import to_document, write_document

    files = [each / TEST_PREDICTIONS if each.is_dir() else each for each in (first, second)]
    tables = [read_predictions(file) for file in files]
    comparison = make_comparison(tables[0], tables[1], names=(str(first), str(second)))
    if output is not None:
        write_document(comparison, output)
    if as_json:
        typer.echo(json.dumps(to_document(comparison)))
    else:
        _print_comparison(comparison)


def _own_folder(file: Path) -> Path:
    """Return the default folder of the figures: the run's for its test images, else one of the file's own."""
    return file.parent if file.name == TEST_PREDICTIONS else file.parent / f"{file.stem}-evaluation"


def _thresholds(
    texts: list[str] | tuple[str, ...], file: Path | None, predictions_file: Path, table: Predictions
) -> dict[str, float]:
    from training.evaluation import OPERATING_POINT_FILE, read_operating_points

    if texts:
        return dict(_threshold(text, table) for text in texts)
    beside = predictions_file.parent / OPERATING_POINT_FILE
    if file is None and not beside.exists():
        return {}
    thresholds = read_operating_points(file or beside).thresholds
    return {name: value for name, value in thresholds.items() if name in table.classes}


def _threshold(text: str, table: Predictions) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if name not in table.classes or not 0 <= number <= 1:
        raise typer.BadParameter(
            f"accepted is CLASS=VALUE with a class of {', '.join(table.classes)} and a value in [0, 1]",
            param_hint="--threshold",
        )
    return name, number


def _draw(figures: Evaluation, table: Predictions, folder: Path, history: Path) -> None:
    from training.evaluation import SUSPECTS_FILE, find_suspects, write_suspects
    from training.plots.curves import plot_confusion, plot_curves, plot_history, plot_subgroups

    plot_curves(figures, table, folder / "curves.png")
    plot_subgroups(figures, folder / "subgroups.png")
    plot_confusion(figures, folder / "confusion.png")
    if history.exists():
        plot_history(history, folder / "history.png")
    write_suspects(find_suspects(table, basis=figures.dataset), folder / SUSPECTS_FILE)


def _draw_gallery(run: Path, figures: Evaluation, table: Predictions, folder: Path) -> None:
    from config.native_logs import quiet_tensorflow

    quiet_tensorflow("auto")
    from training.plots.evidence_gallery import plot_gallery
    from training.runs.folder import MODEL_FILE, open_run
    from training.runs.lung_mask_model import masking_of_run

    opened = open_run(run)
    cases = opened.manifest()
    kind = "evidence" if opened.recipe.network.head == "evidence" else "grad_cam"
    for each in figures.classes:
        plot_gallery(
            run / MODEL_FILE,
            opened.recipe.pixels,
            cases,
            table,
            each.name,
            folder / f"{kind}_{each.name}.png",
            threshold=None if each.at_threshold is None else each.at_threshold.threshold,
            masking=masking_of_run(opened),
        )


def _print(figures: Evaluation, folder: Path) -> None:
    """Print the figures, within 80 columns; intervals stand below their value."""
    from rich.console import Console

    console = Console()
    console.print(f"{figures.dataset}: {figures.images} images. {figures.notice}", highlight=False)
    if (report := figures.report) is not None:
        words = f"accuracy {report.accuracy}" if report.accuracy else "accuracy unknown"
        console.print(
            f"{words}; of always saying the largest class {_number(report.largest_class)}; macro F1 "
            f"{_number(report.macro_f1)}; mean ROC AUC {_number(figures.macro_auc)}",
            highlight=False,
        )
    console.print(_areas(figures))
    console.print(_decisions(figures))
    if report is not None:
        console.print(_matrix(report))
    for caution in figures.cautions:
        typer.echo(f"warning ({caution.code}): {caution.sentence}", err=True)
    typer.echo(f"metrics.json, suspects.csv and plots are in {folder}")


def _areas(figures: Evaluation) -> Table:
    table = _table("class", "positive", "ROC AUC", "within\na source", "source\nalone", "ECE")
    for each in figures.classes:
        source = next((base.auc for base in each.baselines if base.name == "source_only"), None)
        areas = (_cell(each.auc), _cell(each.within_source.auc), _cell(source))
        ece = "" if each.calibration is None else f"{each.calibration.ece:.3f}"
        table.add_row(each.name, str(each.positives), *areas, ece)
    return table


def _decisions(figures: Evaluation) -> Table:
    """Return the classification report; of findings that don't exclude each other, at their thresholds."""
    table = _table("class", "sensitivity\n(recall)", "specificity", "precision\n(PPV)", "F1", "images")
    if figures.report is not None:
        for line in figures.report.classes:
            cells = (_cell(line.recall), _cell(line.specificity), _cell(line.precision))
            table.add_row(line.name, *cells, _number(line.f1), str(line.support))
        return table
    for each in figures.classes:
        at = each.at_threshold
        estimates = (None, None, None) if at is None else (at.sensitivity, at.specificity, at.ppv)
        counts = None if at is None else at.counts
        hits = 0 if counts is None else 2 * counts.true_positive
        told = 0 if counts is None else hits + counts.false_positive + counts.false_negative
        table.add_row(each.name, *map(_cell, estimates), f"{hits / told:.3f}" if told else "", str(each.positives))
    return table


def _matrix(report: ClassificationReport) -> Table:
    table = _table("label \\ model", *report.names, folds=True)
    for name, row in zip(report.names, report.matrix, strict=True):
        table.add_row(name, *map(str, row))
    return table


def _table(*headings: str, folds: bool = False) -> Table:
    """Return an empty table; the first column is folded where the terminal is narrow, with ``folds`` the others too."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(headings[0], overflow="fold", max_width=19)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", overflow="fold", no_wrap=not folds)
    return table


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    interval = estimate.interval
    return f"{estimate.value:.3f}" + ("" if interval is None else f"\n{interval.low:.3f}-{interval.high:.3f}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _print_comparison(comparison: Comparison) -> None:
    typer.echo(f"{comparison.images} images in common: {comparison.first} (first) and {comparison.second} (second)")
    if comparison.only_first or comparison.only_second:
        typer.echo(
            f"excluded: {comparison.only_first} only in the first, {comparison.only_second} only in the second",
            err=True,
        )
    for each in comparison.classes:
        if each.auc is None:
            typer.echo(f"{each.name}: not compared, all images have the same truth")
            continue
        p_value = "unknown" if each.auc.p_value is None else f"{each.auc.p_value:.3g}"
        typer.echo(
            f"{each.name}: ROC AUC {each.auc.first:.3f} and {each.auc.second:.3f}, difference {each.auc.difference}, "
            f"p = {p_value} ({each.positives} of {each.images} images positive)"
        )
    if comparison.is_image_wise:
        typer.echo("warning: patients are unknown; the figures are image-wise, not for claims", err=True)
