"""Cross-validation: predict every image with a network that was trained on neither it nor its patient.

Each fold has a run's folder of its own, so that the same command resumes after a kill. The next fold is
the validation side (epoch, calibration); the remaining folds are trained on.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from cxr.errors import RunError
from training.cases import groups, read_manifest, resolve_paths, write_manifest
from training.cases.stratified_groups import assign_groups
from training.evaluation import Predictions, read_predictions, write_predictions
from training.evaluation.predictions import check
from training.recipe import TrainingRecipe
from training.runs.folder import Run
from training.runs.lineage import count_seen
from training.runs.train import Options, finetune, pretrain

OUT_OF_FOLD_FILE: Final = "predictions_out_of_fold.csv"
MIN_FOLDS: Final = 3


def predict_out_of_fold(
    recipe: TrainingRecipe,
    manifest: Path,
    folder: Path,
    *,
    folds: int = 5,
    start: Path | None = None,
    now: datetime,
    options: Options | None = None,
) -> Predictions:
    """Train one run for each fold, and concatenate the predictions of their test sides.

    Parameters
    ----------
    recipe
        Recipe of every run.
    manifest
        The cases; its column ``split`` is ignored.
    folder
        Folder of the runs and of ``OUT_OF_FOLD_FILE``; an interrupted call with the same folder resumes.
    folds
        Number of folds, at least ``MIN_FOLDS``.
    start
        The finished run whose weights every run starts from; None: as in the recipe.
    now
        Time recorded in the runs.
    options
        Cache (shared by the runs), processes, progress.

    Returns
    -------
    Predictions
        Of all images, each calibrated by its own run: scores of different folds are only nearly on one scale.

    Raises
    ------
    RunError
        If there are too few folds, or the run that they start from has seen these patients.
    """
    if folds < MIN_FOLDS:
        raise RunError(
            f"At least {MIN_FOLDS} folds are needed: one for test, one for validation, the others for training."
        )
    options = options or Options()
    shared = replace(options, cache=options.cache or folder / "cache")
    cases = resolve_paths(read_manifest(manifest), manifest.absolute().parent)
    fold_of_case = assign_folds(cases, folds, recipe.split.seed)
    tables = []
    for fold in range(folds):
        file = folder / f"fold{fold}.csv"
        write_manifest(cases.assign(split=_sides(fold_of_case, fold, folds)), file)
        run_folder = folder / f"fold{fold}"
        run = (
            pretrain(recipe, file, run_folder, now=now, options=shared)
            if start is None
            else finetune(recipe, file, run_folder, start=start, now=now, options=shared)
        )
        _refuse_seen(run)
        tables.append(read_predictions(run.folder / "predictions_test.csv").frame)
    predictions = check(pd.concat(tables, ignore_index=True))
    write_predictions(predictions, folder / OUT_OF_FOLD_FILE)
    return predictions


def assign_folds(cases: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """Return the fold of every case, (N,): patients stay whole, labels are as even as that allows."""
    members = np.unique(groups(cases).to_numpy(dtype=str), return_inverse=True)[1]
    codes = np.unique(cases["label"].to_numpy(dtype=str), return_inverse=True)[1]
    shares = {str(fold): 1.0 for fold in range(folds)}
    fold_of_group = assign_groups(members.astype(np.intp), codes.astype(np.intp), shares, np.random.default_rng(seed))
    return np.asarray(fold_of_group[members])


def _sides(fold_of_case: np.ndarray, fold: int, folds: int) -> np.ndarray:
    return np.where(fold_of_case == fold, "test", np.where(fold_of_case == (fold + 1) % folds, "val", "train"))


def _refuse_seen(run: Run) -> None:
    if (seen := count_seen(run)["test"]) > 0:
        raise RunError(
            f"The run to start from was trained on {seen} of these images or their patients, and has learnt their "
            "labels: start from another run, or from published weights."
        )
