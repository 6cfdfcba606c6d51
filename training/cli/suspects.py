"""``cxr train suspects``: images with doubtful labels, by cross-validation."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

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


def suspects(
    manifest: Manifest,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder of the runs; an interrupted command resumes.", metavar="FOLDER"),
    ],
    recipe: Recipe = "default-pretrain",
    start: Annotated[
        Path | None, typer.Option("--from", help="The finished run whose weights each fold starts from.", metavar="RUN")
    ] = None,
    folds: Annotated[int, typer.Option(min=3, help="Folds; each is predicted by a run on the others.")] = 5,
    overrides: Overrides = None,
    seed: Seed = None,
    weights: Weights = None,
    mask_model: MaskModel = None,
    cache_folder: CacheFolder = None,
    processes: Processes = None,
    as_json: Json = False,
) -> None:
    """List images with doubtful labels, found by cross-validation, in suspects.csv for review by a radiologist.

    Example: cxr train suspects manifest.csv -o runs/suspects --folds 5 --cache cache
    """
    loaded = load(recipe, overrides, seed, weights, mask_model)
    from training.cli.progress import show_progress
    from training.evaluation import SUSPECTS_FILE, find_suspects, write_suspects
    from training.evaluation.folds import pool
    from training.runs.cross_validation import predict_out_of_fold
    from training.runs.train import Options

    output.mkdir(parents=True, exist_ok=True)
    with show_progress() as progress:
        options = Options(cache=cache_folder, processes=processes, progress=progress, show_labels=print_labels)
        found = predict_out_of_fold(
            loaded, manifest, output, folds=folds, start=start, now=datetime.now(UTC), options=options
        )
    predictions = pool(found)
    doubtful = find_suspects(predictions, basis="out of fold")
    write_suspects(doubtful, output / SUSPECTS_FILE)
    if as_json:
        typer.echo(json.dumps({"images": len(predictions), "suspects": len(doubtful)}))
    else:
        typer.echo(f"{len(doubtful)} of {len(predictions)} images have a doubtful label: {output / SUSPECTS_FILE}")
