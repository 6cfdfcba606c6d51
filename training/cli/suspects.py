"""``cxr train suspects``: images whose label a model doubts that has not seen them, nor their patients."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from training.cli.train import CacheFolder, Json, Manifest, MaskModel, Overrides, Processes, Recipe, Seed, Weights, load


def suspects(
    manifest: Manifest,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the runs; what was killed goes on.", metavar="FOLDER")
    ],
    recipe: Recipe = "default-pretrain",
    start: Annotated[
        Path | None, typer.Option("--from", help="The finished run whose weights each starts from.", metavar="RUN")
    ] = None,
    folds: Annotated[int, typer.Option(min=3, help="Runs, each of which predicts what it has not seen.")] = 5,
    overrides: Overrides = None,
    seed: Seed = None,
    weights: Weights = None,
    mask_model: MaskModel = None,
    cache_folder: CacheFolder = None,
    processes: Processes = None,
    as_json: Json = False,
) -> None:
    """List images of a whole manifest whose label is doubted, by cross-validation: suspects.csv, for a radiologist.

    Example: cxr train suspects manifest.csv -o runs/suspects --folds 5 --cache cache
    """
    loaded = load(recipe, overrides, seed, weights, mask_model)
    from training.cli.progress import watching
    from training.evaluation import SUSPECTS_FILE, find_suspects, write_suspects
    from training.runs.cross_validation import predict_out_of_fold
    from training.runs.train import Options

    output.mkdir(parents=True, exist_ok=True)
    with watching() as progress:
        options = Options(cache=cache_folder, processes=processes, progress=progress)
        predictions = predict_out_of_fold(
            loaded, manifest, output, folds=folds, start=start, now=datetime.now(UTC), options=options
        )
    found = find_suspects(predictions, basis="out of fold")
    write_suspects(found, output / SUSPECTS_FILE)
    if as_json:
        typer.echo(json.dumps({"images": len(predictions), "suspects": len(found)}))
    else:
        typer.echo(f"{len(found)} of {len(predictions)} images are doubted: {output / SUSPECTS_FILE}")
