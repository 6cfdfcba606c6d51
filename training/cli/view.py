"""``cxr train view``: the network that tells frontal, lateral and no chest at all from the pixels."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer


def view(
    manifest: Annotated[Path, typer.Argument(help="A manifest with laterals (view L).", metavar="MANIFEST")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.", metavar="RUN")],
    synthetic: Annotated[int, typer.Option(min=0, help="Made pictures of what is no chest.")] = 2100,
    epochs: Annotated[int, typer.Option(min=1, help="Of each network.")] = 60,
    draws: Annotated[int, typer.Option(min=1, help="Images in an epoch.")] = 576,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, draws and folds.")] = 0,
    note: Annotated[
        Path | None, typer.Option(help="A text for the card: what these images are.", metavar="FILE")
    ] = None,
    cache_folder: Annotated[
        Path | None, typer.Option("--cache", help="Prepared images. Default: in the run.", metavar="FOLDER")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="That prepare images. Default: one for each core.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a view model; RUN/package is what `view.model` names. Rows with label not_a_chest are no chest radiographs.

    Example: cxr train view chexpert.csv -o runs/view
    """
    from config.native_logs import quiet_tensorflow

    quiet_tensorflow("cpu")
    from cxr.package.view_model import component_of
    from training.cli.progress import watching
    from training.view_model.network import Effort
    from training.view_model.train import ViewOptions, train_view

    with watching() as progress:
        options = ViewOptions(
            seed=seed,
            synthetic=synthetic,
            effort=Effort(epochs=epochs, draws=draws),
            note="" if note is None else note.read_text(encoding="utf-8").strip(),
            cache=cache_folder,
            processes=processes,
            progress=progress,
        )
        made = train_view(manifest, output, now=datetime.now(UTC), options=options)
    component = component_of(made.manifest)
    if as_json:
        facts = {"package": str(made.folder), "fingerprint": made.fingerprint, "laterals": component.laterals}
        typer.echo(json.dumps(facts | {"may_decide": component.may_decide}))
        return
    typer.echo(f"{made.folder}: trained on {component.laterals} laterals, fingerprint {made.fingerprint}")
    typer.echo("It may decide (view.unknown = model)." if component.may_decide else "It may flag or hold, not decide.")
