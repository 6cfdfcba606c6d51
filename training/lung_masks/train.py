"""From a manifest that names lung masks to a mask model: ``cxr train masks``."""

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
    """How a mask model is trained.

    Parameters
    ----------
    pixels
        How pictures are prepared: that of the runs that will mask with it, whatever their size.
    size, width
        Of the U-Net; see ``training.networks.unet.build_unet``.
    epochs, patience, batch_size, learning_rate
        Of the fitting: Adam, at a constant rate; the best epoch counts.
    seed
        Of weights, split, order and augmentation.
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
        """The same, as what decides once an epoch takes it."""
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
        How.
    manifest
        Its cases; those that name a mask are taken.
    folder
        The mask model's; one that was killed goes on, one that is done is returned.
    now
        The time that is recorded.
    options
        Cache, processes, progress.

    Raises
    ------
    RunError
        If the folder holds another, or there are too few pairs of picture and mask.
    ManifestError, SplitError
        If the cases can't be read or divided.
    """
    wanted = options or Options()
    created = _begin(plan, manifest, folder, now)
    if (folder / DESCRIPTION_FILE).exists():
        return open_mask_model(folder)
    pairs = prepare_pairs(
        resolve_paths(read_manifest(manifest), manifest.absolute().parent), plan.pixels,
        wanted.cache or folder / "cache", seed=plan.seed, processes=wanted.processes, progress=wanted.progress,
    )  # fmt: skip
    write_manifest(pairs.frame, folder / MANIFEST_FILE)
    with device_scope(Compute(), plan.seed) as strategy, strategy.scope():
        network = build_unet(plan.size, plan.width)
        fit_masks(network, MaskTrainingData(pairs, plan.size, plan.stage, plan.seed), folder, wanted.progress)
    save_network(network, folder / MODEL_FILE, now=created)
    return _describe(plan, pairs, folder, parameters=network.count_params())


def _begin(plan: Plan, manifest: Path, folder: Path, now: datetime) -> datetime:
    """Write down what was asked for, or make sure that it is the same; returns when it began."""
    asked = {**asdict(plan), "pixels": plan.pixels.to_dict(), "manifest": sha256_of(manifest)}
    path = folder / PLAN_FILE
    if path.exists():
        recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        created = datetime.fromisoformat(recorded.pop("created"))
        if differing := [name for name, value in asked.items() if recorded.get(name) != value]:
            raise RunError(
                f"The folder holds a mask model of another {' and '.join(differing)}: name another folder, or give the "
                "command that it was begun with."
            )
        return created
    if folder.exists() and any(folder.iterdir()):
        raise RunError("The mask model's folder exists and holds something else: name a new folder.")
    (folder / CHECKPOINTS).mkdir(parents=True)
    write_whole(path, json.dumps(asked | {"created": now.isoformat()}, indent=2, sort_keys=True) + "\n")
    return now


def _describe(plan: Plan, pairs: Pairs, folder: Path, *, parameters: int) -> MaskModel:
    """Compare what serving would find with what was drawn, and write the description: with it, the model is done."""
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
    """One line per picture: how far the lungs that are found are those that were drawn."""
    rows = []
    for row in pairs.side(side):
        drawn = pairs.drawn(int(row))
        try:
            found, is_found = finder.find(pairs.plain(int(row))), True
        except LungsNotFound:
            found, is_found = drawn & False, False
        case = {"image_id": pairs.frame["image_id"].iloc[row], "split": side, "found": "yes" if is_found else "no"}
        rows.append(case | {"dice": dice(found, drawn), "iou": iou(found, drawn)})
    return pd.DataFrame(rows)


def _figures(overlaps: pd.DataFrame, pairs: Pairs) -> dict[str, Any]:
    patients = groups(pairs.frame).set_axis(pairs.frame["image_id"]).loc[overlaps["image_id"]].to_numpy()
    figures = {name: mean_with_interval(overlaps[name], patients) for name in ("dice", "iou")}
    said: dict[str, Any] = {"images": len(overlaps), "no_lungs": int((overlaps["found"] == "no").sum())}
    for name, estimate in figures.items():
        said |= _ends(name, estimate) | {f"{name}_worst": round(float(overlaps[name].min()), 6)}
    return said


def _ends(name: str, estimate: Estimate) -> dict[str, float | None]:
    interval = estimate.interval
    return {
        name: round(estimate.value, 6),
        f"{name}_low": None if interval is None else round(interval.low, 6),
        f"{name}_high": None if interval is None else round(interval.high, 6),
    }
