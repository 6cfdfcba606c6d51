"""``cxr train predict``: predictions of another manifest, for ``evaluate`` and ``compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    manifest: Annotated[Path, typer.Argument(help="Labelled images that it was not trained on.", metavar="MANIFEST")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Predictions file to write.", metavar="FILE")],
    cache_folder: Annotated[
        Path | None, typer.Option("--cache", help="Prepared images. Default: the run's.", metavar="FOLDER")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that prepare images. Default: one for each core.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict an external manifest, without images and patients that the run was trained on.

    Example: cxr train predict runs/finetune other-hospital.csv -o other-hospital.predictions.csv
    """
    from config.native_logs import quiet_tensorflow

    quiet_tensorflow("auto")
    from training.cli.progress import show_progress
    from training.evaluation import write_predictions
    from training.runs.predict import predict_manifest

    with show_progress() as progress:
        result = predict_manifest(run, manifest, cache_folder or run / "cache", processes=processes, progress=progress)
    write_predictions(result.predictions, output)
    left_out = {**result.left_out, "seen_in_training": result.seen}
    if as_json:
        typer.echo(json.dumps({"images": len(result.predictions), "left_out": left_out}))
        return
    typer.echo(f"{len(result.predictions)} images predicted: {output}")
    for reason, count in left_out.items():
        if count:
            typer.echo(f"excluded: {count} ({reason})", err=True)
