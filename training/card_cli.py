"""``cxr train card``: write a model card from a package and its predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    from training.audit_report import read_summary
    from training.evaluate import evaluate
    from training.evaluated_card import CardFacts, evaluated_card
    from training.predictions import read_predictions

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
