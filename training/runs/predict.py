"""Predictions of another manifest with a finished run: another hospital, newer months."""

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
from training.runs.lung_mask_model import masking_of_run


@dataclass(frozen=True, slots=True)
class ManifestPredictions:
    """Predictions of a manifest, and the numbers of excluded images."""

    predictions: Predictions
    left_out: dict[str, int]  # reason -> images: other views, no label of the task, unreadable
    seen: int  # images excluded because the run or a parent run was trained on them or their patients


def predict_manifest(
    folder: Path,
    manifest: Path,
    cache: Path,
    *,
    processes: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> ManifestPredictions:
    """Predict the labelled images of another manifest with a finished run's model.

    Parameters
    ----------
    folder
        The run's folder.
    manifest
        Manifest of the images.
    cache
        Folder of prepared images.
    processes
        Number of processes that prepare images; None: one for each core.
    progress
        Called with the step's name, the number of images done, and their total.

    Raises
    ------
    RunError
        If the run is not finished, or no image remains.
    """
    run = open_run(folder)
    run.fingerprint()  # refuses an unfinished run
    selected = select(resolve_paths(read_manifest(manifest), manifest.parent), run.recipe.task)
    is_new = ~is_seen(selected.frame, seen_cases(run))
    fresh = selected.frame[is_new].reset_index(drop=True)
    if fresh.empty:
        raise RunError(
            "The run was trained on every image of this manifest, or on their patients: give another manifest."
        )
    prepared = build_cache(
        fresh, run.recipe.pixels, cache, processes=processes, progress=progress, masking=masking_of_run(run)
    )
    is_there = fresh["image_id"].isin(list(prepared.rows_by_id)).to_numpy(dtype=bool)
    if not is_there.any():
        raise RunError("No image of this manifest can be prepared; `cxr train cache` lists the reasons.")
    cases = Cases(fresh[is_there].reset_index(drop=True), selected.truths[is_new][is_there], {})
    side = Side(cases, np.asarray(prepared.rows(cases.frame["image_id"]), np.int64))
    network = keras.saving.load_model(run.folder / MODEL_FILE, compile=False, safe_mode=True)
    left_out = {**selected.left_out, "not_prepared": len(prepared.refused)}
    return ManifestPredictions(predict(run.recipe, network, prepared, side), left_out, int((~is_new).sum()))
