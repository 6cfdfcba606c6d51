"""``cxr train masks``: train a U-Net that segments lungs."""

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
        Path, typer.Argument(help="A manifest with lung masks (`cxr train index darwin`).", metavar="MANIFEST")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The mask model's folder; interrupted training resumes.")
    ],
    recipe: Annotated[
        str,
        typer.Option(help="Recipe of the runs that will mask with it; its pixel recipe is used.", metavar="NAME|FILE"),
    ] = "masked-4class",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override one key of the recipe.", metavar="KEY=VALUE")
    ] = None,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Rows and columns of the U-Net; a multiple of 8.")] = 128,
    width: Annotated[int, typer.Option(min=2, max=128, help="Feature maps of the first level.")] = 16,
    epochs: Annotated[int, typer.Option(min=1, help="Maximum number of epochs.")] = 60,
    patience: Annotated[int, typer.Option(min=0, help="Epochs without improvement; 0: no early stopping.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=1e-8, help="Learning rate of Adam.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, split, order and augmentation.")] = 0,
    cache_folder: Annotated[
        Path | None, typer.Option("--cache", help="Prepared images. Default: in the folder.", metavar="FOLDER")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that prepare images. Default: one for each core.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a small U-Net on drawn lung masks, for runs with masked lungs (--mask-model).

    Example: cxr train masks darwin.csv -o masks
    """
    from config.native_logs import quiet_tensorflow

    quiet_tensorflow("auto")
    from training.cli.progress import show_progress
    from training.lung_masks.train import Plan, train_masks
    from training.recipe import load_recipe
    from training.runs.train import Options

    if size % 8:
        raise typer.BadParameter(f"--size is a multiple of 8; got {size}")
    plan = Plan(
        pixels=load_recipe(recipe, overrides or ()).pixels, size=size, width=width, epochs=epochs, patience=patience,
        batch_size=batch_size, learning_rate=learning_rate, seed=seed,
    )  # fmt: skip
    with show_progress() as progress:
        options = Options(cache=cache_folder, processes=processes, progress=progress)
        model = train_masks(plan, manifest, output, now=datetime.now(UTC), options=options)
    _report(model, as_json=as_json)


def _report(model: MaskModel, *, as_json: bool) -> None:
    description = model.description
    if as_json:
        typer.echo(
            json.dumps(
                {"folder": str(model.folder), "fingerprint": description.fingerprint, "figures": description.figures}
            )
        )
        return
    for side in ("val", "test"):
        figures: Any = description.figures[side]
        typer.echo(
            f"{side}: Dice {figures['dice']:.3f} ({figures['dice_low']:.3f} to {figures['dice_high']:.3f}), IoU "
            f"{figures['iou']:.3f} ({figures['iou_low']:.3f} to {figures['iou_high']:.3f}), {figures['images']} "
            f"images, no lungs found in {figures['no_lungs']}"
        )
    if description.figures["is_image_wise"]:
        typer.echo("warning: patients are unknown, a patient may be on two sides: figures not for claims.", err=True)
    typer.echo(f"{model.folder} is done; next: cxr train pretrain --recipe masked-4class --mask-model {model.folder}")
