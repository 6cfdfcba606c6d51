"""``cxr train masks``: a U-Net that finds lungs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from training.runs.lung_mask_model import MaskModel


def masks(
    manifest: Annotated[
        Path, typer.Argument(help="A manifest that names lung masks (`cxr train index darwin`).", metavar="MANIFEST")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The mask model's folder; one that was killed goes on.")
    ],
    recipe: Annotated[
        str, typer.Option(help="Whose pixel recipe: of the runs that will mask with it.", metavar="NAME|FILE")
    ] = "masked-4class",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override one key of the recipe.", metavar="KEY=VALUE")
    ] = None,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Rows and columns of the U-Net; a multiple of 8.")] = 128,
    width: Annotated[int, typer.Option(min=2, max=128, help="Maps of its first level.")] = 16,
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 60,
    patience: Annotated[int, typer.Option(min=0, help="Epochs without a better one; 0: no end before.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures in one step.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=1e-8, help="Of Adam.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, split, order and augmentation.")] = 0,
    cache_folder: Annotated[
        Path | None, typer.Option("--cache", help="Prepared images. Default: in the folder.", metavar="FOLDER")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="That prepare images. Default: one for each core.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a small U-Net on drawn lung masks; runs that see lungs alone name its folder with --mask-model.

    Example: cxr train masks darwin.csv -o masks
    """
    from config.native_logs import quiet_tensorflow

    quiet_tensorflow("auto")
    from training.cli.progress import watching
    from training.lung_masks.train import Plan, train_masks
    from training.recipe import load_recipe
    from training.runs.train import Options

    if size % 8:
        raise typer.BadParameter(f"--size is a multiple of 8; got {size}")
    plan = Plan(
        pixels=load_recipe(recipe, overrides or ()).pixels, size=size, width=width, epochs=epochs, patience=patience,
        batch_size=batch_size, learning_rate=learning_rate, seed=seed,
    )  # fmt: skip
    with watching() as progress:
        options = Options(cache=cache_folder, processes=processes, progress=progress)
        model = train_masks(plan, manifest, output, now=datetime.now(UTC), options=options)
    _say(model, as_json=as_json)


def _say(model: MaskModel, *, as_json: bool) -> None:
    said = model.description
    if as_json:
        typer.echo(json.dumps({"folder": str(model.folder), "fingerprint": said.fingerprint, "figures": said.figures}))
        return
    for side in ("val", "test"):
        figures: Any = said.figures[side]
        typer.echo(
            f"{side}: Dice {figures['dice']:.3f} ({figures['dice_low']:.3f} to {figures['dice_high']:.3f}), IoU "
            f"{figures['iou']:.3f} ({figures['iou_low']:.3f} to {figures['iou_high']:.3f}), {figures['images']} "
            f"images, {figures['no_lungs']} without a lung found"
        )
    if said.figures["is_image_wise"]:
        typer.echo("warning: patients are not known, one may be on two sides: not for claims.", err=True)
    typer.echo(f"{model.folder} is done; next: cxr train pretrain --recipe masked-4class --mask-model {model.folder}")
