"""``cxr train package`` and ``card``: from a run to a model package, and its model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from training.cli.train import CacheFolder, Json, Processes, _quiet


def card(
    package: Annotated[Path, typer.Argument(help="Folder of a model package.", metavar="PACKAGE")],
    predictions: Annotated[Path, typer.Argument(help="Its predictions of the test images.", metavar="PREDICTIONS")],
    external: Annotated[
        list[Path] | None, typer.Option(help="Its predictions of other images; repeat for more.", metavar="FILE")
    ] = None,
    audit: Annotated[Path | None, typer.Option(help="audit.json of the training data.", metavar="FILE")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: print it.", metavar="FILE")] = None,
    replicates: Annotated[int, typer.Option(min=100, help="Draws of the bootstrap.")] = 2000,
) -> None:
    """Write a model card: what the model is worth comes first. The package itself is not changed.

    Example: cxr train card runs/finetune/package runs/finetune/predictions_test.csv -o card.md
    """
    from cxr.package import load_package
    from training.audit.report import read_summary
    from training.evaluation import read_predictions
    from training.evaluation.evaluate import evaluate
    from training.packaging.model_card import CardFacts, evaluated_card

    manifest = load_package(package).manifest
    thresholds = {each.finding: each.threshold for each in manifest.classes if each.threshold is not None}
    found = []
    for file in (predictions, *(external or ())):
        table = read_predictions(file)
        known = {name: value for name, value in thresholds.items() if name in table.classes}
        found.append(evaluate(table, thresholds=known, dataset=file.stem, replicates=replicates))
    summary, cautions = read_summary(audit, manifest.findings) if audit is not None else ({}, ())
    text = evaluated_card(
        manifest,
        CardFacts(internal=found[0], external=tuple(found[1:]), audit=summary, audit_cautions=cautions),
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
    version: Annotated[str | None, typer.Option(help="The model's. Default: from its fingerprint.")] = None,
    replicates: Annotated[int, typer.Option(min=100, help="Draws of the bootstrap.")] = 2000,
    compare_with: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another model that scores the same test images, e.g. the one in service; repeat for more.",
            metavar="PACKAGE|RUN",
        ),
    ] = None,
    note: Annotated[
        Path | None,
        typer.Option(
            help="A text file: what the card says first, e.g. figures on films from elsewhere.", metavar="FILE"
        ),
    ] = None,
    cache_folder: CacheFolder = None,
    processes: Processes = None,
    as_json: Json = False,
) -> None:
    """Make a model package of a run, with all that promotion judges; `cxr model promote` takes it.

    Example: cxr train package runs/finetune --cache cache --compare-with var/models/current
    """
    _quiet()
    from training.cli.progress import watching
    from training.packaging.build import package_run
    from training.runs.train import Options

    with watching() as progress:
        made = package_run(
            run,
            output or run / "package",
            version=version,
            replicates=replicates,
            compare_with=compare_with or (),
            options=Options(cache=cache_folder, processes=processes, progress=progress),
            note="" if note is None else note.read_text(encoding="utf-8").strip(),
        )
    if as_json:
        typer.echo(json.dumps({"package": str(made.folder), "fingerprint": made.fingerprint}))
    else:
        typer.echo(f"{made.folder}: {made.manifest.name} {made.manifest.version}, fingerprint {made.fingerprint}")
