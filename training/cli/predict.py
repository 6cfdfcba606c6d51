"""``cxr train predict``: predictions of another manifest, for ``evaluate`` and ``compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    manifest: Annotated[Path, typer.Argument(help="Labelled images that it has not seen.", metavar="MANIFEST")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Predictions file to write.", metavar="FILE")],
    cache_folder: Annotated[
        Path | None, typer.Option("--cache", help="Prepared images. Default: the run's.", metavar="FOLDER")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="That prepare images. Default: one for each core.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict an external manifest; images that the run was trained on, or their patients', are left out.

    Example: cxr train predict runs/finetune other-hospital.csv -o other-hospital.predictions.csv
    """
    from config.native_logs import quiet_tensorflow

    quiet_tensorflow("auto")
    from training.cli.progress import watching
    from training.evaluation import write_predictions
    from training.runs.predict import predict_manifest

    with watching() as progress:
        found = predict_manifest(run, manifest, cache_folder or run / "cache", processes=processes, progress=progress)
    write_predictions(found.predictions, output)
    left_out = {**found.left_out, "seen_in_training": found.seen}
    if as_json:
        typer.echo(json.dumps({"images": len(found.predictions), "left_out": left_out}))
        return
    typer.echo(f"{len(found.predictions)} images are predicted in {output}")
    for reason, count in left_out.items():
        if count:
            typer.echo(f"left out: {count} ({reason})", err=True)
