"""Predict every image with a network that was not trained on it, nor on its patient: cross-validation, run by run.

Each fold is a run's folder of its own, so that what was killed goes on with the same command. The next
fold chooses the epoch and the calibration; the others are trained on.
"""

from __future__ import annotations

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
FEWEST: Final = 3


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
    """Train one run for each fold, and put the predictions of what each has not seen together.

    Parameters
    ----------
    recipe
        Of every run.
    manifest
        The cases; sides that it gives are not looked at.
    folder
        Where the runs go, and ``OUT_OF_FOLD_FILE``; named again, it goes on.
    folds
        How many; at least ``FEWEST``.
    start
        The finished run whose weights every run starts from; None as the recipe says.
    now
        The time that is recorded.
    options
        Cache (for all of them), processes, progress.

    Returns
    -------
    Predictions
        Each calibrated by its own run; scores of different folds are nearly, not exactly, of one scale.

    Raises
    ------
    RunError
        If the folds are too few, or the run that they start from has learnt from these patients.
    """
    if folds < FEWEST:
        raise RunError(f"{FEWEST} folds at least are needed: one is predicted, one chooses, the rest is trained on.")
    wanted = options or Options()
    shared = Options(cache=wanted.cache or folder / "cache", processes=wanted.processes, progress=wanted.progress)
    cases = resolve_paths(read_manifest(manifest), manifest.absolute().parent)
    number = assign_folds(cases, folds, recipe.split.seed)
    tables = []
    for fold in range(folds):
        file = folder / f"fold{fold}.csv"
        write_manifest(cases.assign(split=_sides(number, fold, folds)), file)
        place = folder / f"fold{fold}"
        run = (
            pretrain(recipe, file, place, now=now, options=shared)
            if start is None
            else finetune(recipe, file, place, start=start, now=now, options=shared)
        )
        _refuse_known(run)
        tables.append(read_predictions(run.folder / "predictions_test.csv").frame)
    whole = check(pd.concat(tables, ignore_index=True))
    write_predictions(whole, folder / OUT_OF_FOLD_FILE)
    return whole


def assign_folds(cases: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """Give every case the number of its fold: patients as a whole, labels as even as that allows."""
    members = np.unique(groups(cases).to_numpy(dtype=str), return_inverse=True)[1]
    codes = np.unique(cases["label"].to_numpy(dtype=str), return_inverse=True)[1]
    wanted = {str(fold): 1.0 for fold in range(folds)}
    chosen = assign_groups(members.astype(np.intp), codes.astype(np.intp), wanted, np.random.default_rng(seed))
    return np.asarray(chosen[members])


def _sides(number: np.ndarray, fold: int, folds: int) -> np.ndarray:
    return np.where(number == fold, "test", np.where(number == (fold + 1) % folds, "val", "train"))


def _refuse_known(run: Run) -> None:
    if (known := count_seen(run)["test"]) > 0:
        raise RunError(
            f"The run to start from has learnt from {known} of these images or their patients, and believes their "
            "labels: start from another run, or from published weights."
        )
