"""``cxr train package`` and ``card``: model package of a run, and model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from training.cli.train import CacheFolder, Json, Processes, quiet_libraries


def card(
    package: Annotated[Path, typer.Argument(help="Folder of a model package.", metavar="PACKAGE")],
    predictions: Annotated[Path, typer.Argument(help="Its predictions of the test images.", metavar="PREDICTIONS")],
    external: Annotated[
        list[Path] | None, typer.Option(help="Its predictions of external images; repeatable.", metavar="FILE")
    ] = None,
    audit: Annotated[Path | None, typer.Option(help="audit.json of the training data.", metavar="FILE")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: standard output.", metavar="FILE")
    ] = None,
    replicates: Annotated[int, typer.Option(min=100, help="Bootstrap replicates.")] = 2000,
) -> None:
    """Write a model card, its summary of performance first. The package itself is not changed.

    Example: cxr train card runs/finetune/package runs/finetune/predictions_test.csv -o card.md
    """
    from cxr.package import load_package
    from training.audit.report import read_summary
    from training.evaluation import read_predictions
    from training.evaluation.evaluate import evaluate
    from training.packaging.model_card import CardFacts, evaluated_card

    manifest = load_package(package).manifest
    thresholds = {each.finding: each.threshold for each in manifest.classes if each.threshold is not None}
    evaluations = []
    for file in (predictions, *(external or ())):
        table = read_predictions(file)
        own = {name: value for name, value in thresholds.items() if name in table.classes}
        evaluations.append(evaluate(table, thresholds=own, dataset=file.stem, replicates=replicates))
    summary, cautions = read_summary(audit, manifest.findings) if audit is not None else ({}, ())
    text = evaluated_card(
        manifest,
        CardFacts(internal=evaluations[0], external=tuple(evaluations[1:]), audit=summary, audit_cautions=cautions),
    )
    if output is None:
        typer.echo(text)
    else:
        output.write_text(text, encoding="utf-8")


def package(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.", metavar="RUN")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: RUN/package.", metavar="FOLDER")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Version of the model. Default: from its fingerprint.")] = None,
    replicates: Annotated[int, typer.Option(min=100, help="Bootstrap replicates.")] = 2000,
    compare_with: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another model to score on the same test images, e.g. the active one; repeatable.",
            metavar="PACKAGE|RUN",
        ),
    ] = None,
    note: Annotated[
        Path | None,
        typer.Option(
            help="A text file for the beginning of the card, e.g. figures on external images.", metavar="FILE"
        ),
    ] = None,
    cache_folder: CacheFolder = None,
    processes: Processes = None,
    as_json: Json = False,
) -> None:
    """Write a run's model package, with all figures of the promotion gates, for `cxr model promote`.

    Example: cxr train package runs/finetune --cache cache --compare-with var/models/current
    """
    quiet_libraries()
    from training.cli.progress import show_progress
    from training.packaging.build import package_run
    from training.runs.train import Options

    with show_progress() as progress:
        built = package_run(
            run,
            output or run / "package",
            version=version,
            replicates=replicates,
            compare_with=compare_with or (),
            options=Options(cache=cache_folder, processes=processes, progress=progress),
            note="" if note is None else note.read_text(encoding="utf-8").strip(),
        )
    if as_json:
        typer.echo(json.dumps({"package": str(built.folder), "fingerprint": built.fingerprint}))
    else:
        typer.echo(f"{built.folder}: {built.manifest.name} {built.manifest.version}, fingerprint {built.fingerprint}")
