"""``cxr train view``: train the model that classifies pixels as frontal, lateral or not a chest."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer


def view(
    manifest: Annotated[Path, typer.Argument(help="A manifest with laterals (view L).", metavar="MANIFEST")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run's folder.", metavar="RUN")],
    synthetic: Annotated[int, typer.Option(min=0, help="Synthetic images that show no chest.")] = 2100,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each network.")] = 60,
    draws: Annotated[int, typer.Option(min=1, help="Images of an epoch.")] = 576,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, draws and folds.")] = 0,
    note: Annotated[
        Path | None, typer.Option(help="A text for the card: origin of the images.", metavar="FILE")
    ] = None,
    cache_folder: Annotated[
        Path | None, typer.Option("--cache", help="Prepared images. Default: in the run.", metavar="FOLDER")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that prepare images. Default: one for each core.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a view model; set `view.model` to RUN/package. Rows with label not_a_chest are no chest radiographs.

    Example: cxr train view chexpert.csv -o runs/view
    """
    from config.native_logs import quiet_tensorflow

    quiet_tensorflow("cpu")
    from cxr.package.view_model import component_of
    from training.cli.progress import show_progress
    from training.view_model.network import Effort
    from training.view_model.train import ViewOptions, train_view

    with show_progress() as progress:
        options = ViewOptions(
            seed=seed,
            synthetic=synthetic,
            effort=Effort(epochs=epochs, draws=draws),
            note="" if note is None else note.read_text(encoding="utf-8").strip(),
            cache=cache_folder,
            processes=processes,
            progress=progress,
        )
        package = train_view(manifest, output, now=datetime.now(UTC), options=options)
    component = component_of(package.manifest)
    if as_json:
        facts = {"package": str(package.folder), "fingerprint": package.fingerprint, "laterals": component.laterals}
        typer.echo(json.dumps(facts | {"may_decide": component.may_decide}))
        return
    typer.echo(f"{package.folder}: trained on {component.laterals} laterals, fingerprint {package.fingerprint}")
    typer.echo("It may decide (view.unknown = model)." if component.may_decide else "It may flag or hold, not decide.")
