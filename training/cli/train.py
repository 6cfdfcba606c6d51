"""``cxr train cache``, ``pretrain``, ``finetune`` and ``ensemble``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from training.inputs.label_table import LabelRow
    from training.recipe import TrainingRecipe
    from training.runs.folder import Run

Manifest = Annotated[Path, typer.Argument(help="A manifest of `cxr train index`.", metavar="MANIFEST")]
Recipe = Annotated[str, typer.Option("--recipe", help="A recipe of this project, or a TOML file.", metavar="NAME|FILE")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one key, e.g. --set stages.0.epochs=1.", metavar="KEY=VALUE"),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed. Default: the recipe's.")]
Weights = Annotated[
    str | None, typer.Option(help="random, imagenet, or a file of the trunk's weights.", metavar="SOURCE|FILE")
]
MaskModel = Annotated[
    Path | None,
    typer.Option(help="A folder of `cxr train masks`, for recipes with masked lungs.", metavar="FOLDER"),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The run's folder; an interrupted run resumes.", metavar="RUN")
]
CacheFolder = Annotated[
    Path | None, typer.Option("--cache", help="Prepared images, shared by runs. Default: in the run.", metavar="FOLDER")
]
Processes = Annotated[
    int | None, typer.Option(min=1, help="Processes that prepare images. Default: one for each core.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def cache(
    manifest: Manifest,
    output: Annotated[Path, typer.Option("--output", "-o", help="The cache's folder.", metavar="FOLDER")],
    recipe: Recipe = "default-finetune",
    overrides: Overrides = None,
    mask_model: MaskModel = None,
    processes: Processes = None,
    as_json: Json = False,
) -> None:
    """Prepare a manifest's images in parallel; an interrupted command resumes. Exit code 1: some can't be prepared.

    Example: cxr train cache manifest.csv -o cache --recipe default-finetune
    """
    quiet_libraries()
    from training.cases import read_manifest, resolve_paths
    from training.cli.progress import show_progress
    from training.inputs.cache import build_cache
    from training.runs.lung_mask_model import masking_of_recipe

    loaded = load(recipe, overrides, None, None, mask_model)
    cases = resolve_paths(read_manifest(manifest), manifest.parent)
    with show_progress() as progress:
        built = build_cache(
            cases, loaded.pixels, output, processes=processes, progress=progress, masking=masking_of_recipe(loaded)
        )
    refused = [{"image_id": each.image_id, "code": each.code, "reason": each.reason} for each in built.refused]
    if as_json:
        typer.echo(json.dumps({"images": len(built.rows_by_id), "pixels": loaded.pixels.digest, "refused": refused}))
    else:
        typer.echo(f"{len(built.rows_by_id)} images are in the cache; {len(refused)} can't be prepared.")
        for each in refused[:20]:
            typer.echo(f"  {each['image_id']}: {each['code']}: {each['reason']}", err=True)
    if refused:
        raise typer.Exit(1)


def pretrain(
    manifest: Manifest,
    output: Output,
    recipe: Recipe = "default-pretrain",
    overrides: Overrides = None,
    seed: Seed = None,
    weights: Weights = None,
    mask_model: MaskModel = None,
    cache_folder: CacheFolder = None,
    processes: Processes = None,
    as_json: Json = False,
) -> None:
    """Train a network from random or published weights; the same command resumes an interrupted run.

    Example: cxr train pretrain chexpert.csv -o runs/pretrain --weights imagenet
    """
    loaded = load(recipe, overrides, seed, weights, mask_model)
    from training.cli.progress import show_progress
    from training.runs import train

    with show_progress() as progress:
        options = train.Options(cache=cache_folder, processes=processes, progress=progress, show_labels=print_labels)
        run = train.pretrain(loaded, manifest, output, now=datetime.now(UTC), options=options)
    _report(run, as_json=as_json)


def finetune(
    manifest: Manifest,
    output: Output,
    start: Annotated[
        Path | None, typer.Option("--from", help="The finished run whose weights it starts from.", metavar="RUN")
    ] = None,
    recipe: Recipe = "default-finetune",
    overrides: Overrides = None,
    seed: Seed = None,
    weights: Weights = None,
    mask_model: MaskModel = None,
    cache_folder: CacheFolder = None,
    processes: Processes = None,
    as_json: Json = False,
) -> None:
    """Continue an earlier run on other images; the same command resumes an interrupted run.

    Example: cxr train finetune institution.csv -o runs/finetune --from runs/pretrain
    """
    loaded = load(recipe, overrides, seed, weights, mask_model)
    from training.cli.progress import show_progress
    from training.runs import train

    with show_progress() as progress:
        options = train.Options(cache=cache_folder, processes=processes, progress=progress, show_labels=print_labels)
        run = train.finetune(loaded, manifest, output, start=start, now=datetime.now(UTC), options=options)
    _warn_of_seen(run)
    _report(run, as_json=as_json)


def ensemble(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs that differ only in their seed.", metavar="RUN")],
    output: Output,
    cache_folder: CacheFolder = None,
    processes: Processes = None,
    as_json: Json = False,
) -> None:
    """Join runs with different seeds into one model, the mean of their logits, calibrated again.

    Example: cxr train ensemble runs/seed0 runs/seed1 runs/seed2 -o runs/ensemble
    """
    quiet_libraries()
    from training.cli.progress import show_progress
    from training.runs import ensemble as ensembles
    from training.runs.train import Options

    with show_progress() as progress:
        options = Options(cache=cache_folder, processes=processes, progress=progress)
        run = ensembles.ensemble(runs, output, now=datetime.now(UTC), options=options)
    _report(run, as_json=as_json)


def load(
    recipe: str, overrides: list[str] | None, seed: int | None, weights: str | None, mask_model: Path | None
) -> TrainingRecipe:
    """Read a recipe with the overrides of the command's options."""
    quiet_libraries()
    from training.recipe import load_recipe
    from training.runs.initial_weights import weights_overrides

    changes = [] if seed is None else [f"seed={seed}"]
    changes += [] if weights is None else weights_overrides(weights)
    if mask_model is not None:
        from training.runs.lung_mask_model import mask_overrides

        changes += mask_overrides(mask_model)
    return load_recipe(recipe, [*(overrides or ()), *changes])


def quiet_libraries() -> None:
    """Reduce the native log output of TensorFlow; call it before the first import."""
    from config.native_logs import quiet_tensorflow

    quiet_tensorflow("auto")


def print_labels(rows: tuple[LabelRow, ...]) -> None:
    """Print label, class and images by side on stderr: a run's output is its folder."""
    from rich.console import Console
    from rich.table import Table

    table = Table("label", "class", title="What the run makes of the labels")
    for side in ("train", "val", "test"):
        table.add_column(side, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.label or "(no label)", row.meaning, *map(str, row.images))
    Console(stderr=True).print(table)


def _warn_of_seen(run: Run) -> None:
    from training.runs.lineage import count_seen

    if (seen := count_seen(run)["test"]) > 0:
        typer.echo(
            f"{seen} test images are of patients that an earlier run was trained on: their figures are no independent "
            "test. Split the cases once (cxr train split), and use the same sides for both runs.",
            err=True,
        )


def _report(run: Run, *, as_json: bool) -> None:
    from training.runs.brisque_filter import describe_exclusions

    if words := describe_exclusions(run):
        typer.echo(words, err=True)
    if as_json:
        typer.echo(json.dumps({"run": str(run.folder), "fingerprint": run.fingerprint()}))
    else:
        typer.echo(f"{run.folder} is done; next: cxr train evaluate {run.folder}, cxr train package {run.folder}")
