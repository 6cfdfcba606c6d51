"""Predict a manifest that a run has never seen: another hospital, newer months."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from cxr.errors import RunError
from training.cases import read_manifest, resolve_paths
from training.evaluation import Predictions
from training.inputs.cache import build_cache
from training.inputs.targets import Cases, select
from training.runs.finalise import predict
from training.runs.folder import MODEL_FILE, open_run
from training.runs.lineage import is_seen, seen_cases
from training.runs.loop import Side
from training.runs.lung_mask_model import masking_of


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions of a manifest, and what they leave out."""

    predictions: Predictions
    left_out: dict[str, int]  # reason -> images: other views, no label of the task, not readable
    seen: int  # images that the run, or one it starts from, has learnt from, or whose patients: left out


def predict_manifest(
    folder: Path,
    manifest: Path,
    cache: Path,
    *,
    processes: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Predicted:
    """Predict the labelled images of another manifest with a finished run's graph.

    Parameters
    ----------
    folder
        The run's.
    manifest
        Of the images.
    cache
        Folder of prepared images.
    processes
        That prepare images; None: one for each core.
    progress
        Called with a step's name, how many images are done, and of how many.

    Raises
    ------
    RunError
        If the run is not finished, or no image is left.
    """
    run = open_run(folder)
    run.fingerprint()  # refuses what is not finished
    chosen = select(resolve_paths(read_manifest(manifest), manifest.parent), run.recipe.task)
    is_new = ~is_seen(chosen.frame, seen_cases(run))
    fresh = chosen.frame[is_new].reset_index(drop=True)
    if fresh.empty:
        raise RunError("The run was trained on every image of this manifest, or on their patients: take another one.")
    prepared = build_cache(
        fresh, run.recipe.pixels, cache, processes=processes, progress=progress, masking=masking_of(run)
    )
    is_there = fresh["image_id"].isin(list(prepared.rows_by_id)).to_numpy(dtype=bool)
    if not is_there.any():
        raise RunError("No image of this manifest can be prepared; `cxr train cache` says why.")
    cases = Cases(fresh[is_there].reset_index(drop=True), chosen.truths[is_new][is_there], {})
    side = Side(cases, np.asarray(prepared.rows(cases.frame["image_id"]), np.int64))
    network = keras.saving.load_model(run.folder / MODEL_FILE, compile=False, safe_mode=True)
    left_out = {**chosen.left_out, "not_prepared": len(prepared.refused)}
    return Predicted(predict(run.recipe, network, prepared, side), left_out, int((~is_new).sum()))
