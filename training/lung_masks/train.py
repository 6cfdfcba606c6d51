"""Training of a mask model from a manifest with lung masks: ``cxr train masks``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd

from cxr.errors import LungsNotFound, RunError
from cxr.package.lung_mask import LungFinder, MaskSettings
from cxr.pixels.recipe import PixelRecipe
from training.cases import groups, read_manifest, resolve_paths, write_manifest
from training.files import sha256_of, write_whole
from training.lung_masks.loop import MaskTrainingData, fit_masks
from training.lung_masks.pairs import Pairs, prepare_pairs
from training.metrics.interval import Estimate
from training.metrics.overlap import dice, iou, mean_with_interval
from training.networks import build_unet, save_network
from training.recipe import Compute, Stage
from training.runs.devices import device_scope, software_versions
from training.runs.folder import CHECKPOINTS, MANIFEST_FILE, MODEL_FILE
from training.runs.lung_mask_model import DESCRIPTION_FILE, Description, MaskModel, load_segment, open_mask_model
from training.runs.train import Options

PLAN_FILE: Final = "plan.json"
OVERLAPS_FILE: Final = "overlaps.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings of a mask model's training.

    Parameters
    ----------
    pixels
        Pixel recipe, that of the runs that will mask with it; only the size may differ.
    size, width
        Input size and first maps of the U-Net; see ``training.networks.unet.build_unet``.
    epochs, patience, batch_size, learning_rate
        Training with Adam at a constant rate; the weights of the best epoch are kept.
    seed
        Seed of weights, split, order and augmentation.
    """

    pixels: PixelRecipe
    size: int = 128
    width: int = 16
    epochs: int = 60
    patience: int = 10
    batch_size: int = 16
    learning_rate: float = 1e-3
    seed: int = 0

    @property
    def stage(self) -> Stage:
        """The settings as a stage, for early stopping."""
        return Stage(
            name="unet", train="all", learning_rate=self.learning_rate, batch_size=self.batch_size,
            epochs=self.epochs, monitor="val_loss", patience=self.patience,
        )  # fmt: skip


def train_masks(
    plan: Plan, manifest: Path, folder: Path, *, now: datetime, options: Options | None = None
) -> MaskModel:
    """Train a mask model.

    Parameters
    ----------
    plan
        Settings.
    manifest
        The cases; those with a mask are used.
    folder
        The mask model's folder; interrupted training resumes, a finished model is returned.
    now
        Time recorded in the model.
    options
        Cache, processes, progress.

    Raises
    ------
    RunError
        If the folder holds another mask model, or there are too few pairs of image and mask.
    ManifestError, SplitError
        If the cases can't be read or split.
    """
    options = options or Options()
    created = _begin(plan, manifest, folder, now)
    if (folder / DESCRIPTION_FILE).exists():
        return open_mask_model(folder)
    pairs = prepare_pairs(
        resolve_paths(read_manifest(manifest), manifest.absolute().parent), plan.pixels,
        options.cache or folder / "cache", seed=plan.seed, processes=options.processes, progress=options.progress,
    )  # fmt: skip
    write_manifest(pairs.frame, folder / MANIFEST_FILE)
    with device_scope(Compute(), plan.seed) as strategy, strategy.scope():
        network = build_unet(plan.size, plan.width)
        fit_masks(network, MaskTrainingData(pairs, plan.size, plan.stage, plan.seed), folder, options.progress)
    save_network(network, folder / MODEL_FILE, now=created)
    return _describe(plan, pairs, folder, parameters=network.count_params())


def _begin(plan: Plan, manifest: Path, folder: Path, now: datetime) -> datetime:
    """Record the plan, or compare it with the recorded one; return the recorded time."""
    requested = {**asdict(plan), "pixels": plan.pixels.to_dict(), "manifest": sha256_of(manifest)}
    path = folder / PLAN_FILE
    if path.exists():
        recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        created = datetime.fromisoformat(recorded.pop("created"))
        if differing := [name for name, value in requested.items() if recorded.get(name) != value]:
            raise RunError(
                f"The folder holds a mask model of another {' and '.join(differing)}: name another folder, or give the "
                "command that began it."
            )
        return created
    if folder.exists() and any(folder.iterdir()):
        raise RunError("The mask model's folder exists and holds other files: name a new folder.")
    (folder / CHECKPOINTS).mkdir(parents=True)
    write_whole(path, json.dumps(requested | {"created": now.isoformat()}, indent=2, sort_keys=True) + "\n")
    return now


def _describe(plan: Plan, pairs: Pairs, folder: Path, *, parameters: int) -> MaskModel:
    """Evaluate the masks of serving against the drawn ones; write the description, which marks the model as done."""
    settings = MaskSettings(size=plan.size)
    finder = LungFinder(settings, load_segment(folder / MODEL_FILE))
    overlaps = pd.concat([_overlaps(pairs, finder, side) for side in ("val", "test")], ignore_index=True)
    write_whole(folder / OVERLAPS_FILE, overlaps.to_csv(index=False, lineterminator="\n"))
    is_image_wise = bool((pairs.frame["image_wise"] == "yes").any())
    description = Description(
        settings=settings,
        pixels=plan.pixels,
        sha256=sha256_of(folder / MODEL_FILE),
        figures={side: _figures(overlaps[overlaps["split"] == side], pairs) for side in ("val", "test")}
        | {"is_image_wise": is_image_wise},
        provenance={
            "images": {side: len(pairs.side(side)) for side in ("train", "val", "test")},
            "left_out": dict(pairs.left_out),
            "sources": {str(name): int(count) for name, count in pairs.frame["source"].value_counts().items()},
            "parameters": parameters,
            "seed": plan.seed,
            "software": dict(software_versions()),
        },
    )
    write_whole(folder / DESCRIPTION_FILE, description.model_dump_json(indent=2) + "\n")
    return open_mask_model(folder)


def _overlaps(pairs: Pairs, finder: LungFinder, side: str) -> pd.DataFrame:
    """Return one row per image with Dice and IoU of the predicted and the drawn mask."""
    rows = []
    for row in pairs.side(side):
        drawn = pairs.drawn(int(row))
        try:
            predicted, is_found = finder.find(pairs.plain(int(row))), True
        except LungsNotFound:
            predicted, is_found = drawn & False, False
        case = {"image_id": pairs.frame["image_id"].iloc[row], "split": side, "found": "yes" if is_found else "no"}
        rows.append(case | {"dice": dice(predicted, drawn), "iou": iou(predicted, drawn)})
    return pd.DataFrame(rows)


def _figures(overlaps: pd.DataFrame, pairs: Pairs) -> dict[str, Any]:
    patients = groups(pairs.frame).set_axis(pairs.frame["image_id"]).loc[overlaps["image_id"]].to_numpy()
    means = {name: mean_with_interval(overlaps[name], patients) for name in ("dice", "iou")}
    figures: dict[str, Any] = {"images": len(overlaps), "no_lungs": int((overlaps["found"] == "no").sum())}
    for name, estimate in means.items():
        figures |= _with_bounds(name, estimate) | {f"{name}_worst": round(float(overlaps[name].min()), 6)}
    return figures


def _with_bounds(name: str, estimate: Estimate) -> dict[str, float | None]:
    interval = estimate.interval
    return {
        name: round(estimate.value, 6),
        f"{name}_low": None if interval is None else round(interval.low, 6),
        f"{name}_high": None if interval is None else round(interval.high, 6),
    }
