"""Cross-validation: predict every image with a network that was trained on neither it nor its patient.

Each fold has a run's folder of its own, so that the same command resumes after a kill. The next fold is
the validation side (epoch, calibration, threshold); the remaining folds are trained on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from cxr.errors import RunError
from training.cases import groups, read_manifest, resolve_paths, write_manifest
from training.cases.splits import DEFAULT_STRATIFY, strata_of
from training.cases.stratified_groups import assign_groups
from training.evaluation import OPERATING_POINT_FILE, read_operating_points, read_predictions, write_predictions
from training.evaluation.folds import FoldPredictions, pool
from training.files import sha256_of, write_json
from training.inputs.targets import select
from training.recipe import Task, TrainingRecipe
from training.runs.folder import Run, open_run, strata_columns
from training.runs.lineage import count_seen
from training.runs.train import Options, finetune, pretrain

OUT_OF_FOLD_FILE: Final = "predictions_out_of_fold.csv"
RECORD_FILE: Final = "cross_validation.json"
MIN_FOLDS: Final = 3

EVERY_FOLD_TRAINS: Final = -1
"""Instead of a fold: the case is trained on in every run, and predicted in none."""


def predict_out_of_fold(
    recipe: TrainingRecipe,
    manifest: Path,
    folder: Path,
    *,
    folds: int = 5,
    start: Path | None = None,
    train_only: Sequence[str] = (),
    now: datetime,
    options: Options | None = None,
) -> tuple[FoldPredictions, ...]:
    """Train one run for each fold, and write the predictions of all their test sides into ``OUT_OF_FOLD_FILE``.

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
    train_only
        Sources whose patients every run is trained on, and which are not predicted.
    now
        Time recorded in the runs.
    options
        Cache (shared by the runs), processes, progress.

    Returns
    -------
    tuple[FoldPredictions, ...]
        One for each fold, each calibrated by its own run: scores of different folds are only nearly on one scale.

    Raises
    ------
    RunError
        If there are too few folds, or too few images for them; if the folder holds a cross-validation of other
        cases, of another recipe, start or number of folds; or if the run that they start from has seen these patients.
    """
    if folds < MIN_FOLDS:
        raise RunError(
            f"At least {MIN_FOLDS} folds are needed: one for test, one for validation, the others for training."
        )
    options = options or Options()
    shared = replace(options, cache=options.cache or folder / "cache")
    cases = resolve_paths(read_manifest(manifest), manifest.absolute().parent)
    fold_of_case = assign_folds(
        cases, folds, recipe.split.seed, stratify=strata_columns(recipe, cases), train_only=train_only
    )
    refuse_poor_folds(cases, fold_of_case, folds, recipe.task)
    _begin(folder, recipe, manifest, folds=folds, start=start, train_only=train_only)
    found = []
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
        found.append(
            FoldPredictions(
                read_predictions(run.folder / "predictions_test.csv"),
                read_operating_points(run.folder / OPERATING_POINT_FILE).thresholds,
                run.fingerprint(),
            )
        )
    write_predictions(pool(found), folder / OUT_OF_FOLD_FILE)
    return tuple(found)


def assign_folds(
    cases: pd.DataFrame,
    folds: int,
    seed: int,
    *,
    stratify: Sequence[str] = DEFAULT_STRATIFY,
    train_only: Sequence[str] = (),
) -> np.ndarray:
    """Return the fold of every case, (N,), or ``EVERY_FOLD_TRAINS``.

    Patients stay whole; the shares of ``stratify`` (see ``training.cases.split``) are as even as that allows. Patients
    with an image from a source of ``train_only`` are in no fold.
    """
    group = groups(cases)
    is_open = ~group.isin(set(group[cases["source"].isin(set(train_only))])) if train_only else group.notna()
    fold_of_case = np.full(len(cases), EVERY_FOLD_TRAINS, np.intp)
    if is_open.any():
        members = np.unique(group[is_open].to_numpy(dtype=str), return_inverse=True)[1].astype(np.intp)
        codes, images = strata_of(cases[is_open], stratify)
        shares = {str(fold): 1.0 for fold in range(folds)}
        fold_of_group = assign_groups(members, codes, shares, np.random.default_rng(seed), images)
        fold_of_case[is_open.to_numpy(dtype=bool)] = fold_of_group[members]
    return fold_of_case


def refuse_poor_folds(cases: pd.DataFrame, fold_of_case: np.ndarray, folds: int, task: Task) -> None:
    """Refuse folds that can't be validated on: each needs images of two classes, and both kinds of every label.

    Raises
    ------
    RunError
        With the first such fold and its images by class.
    """
    selected = select(cases.assign(fold=fold_of_case), task)
    for fold in range(folds):
        truths = selected.truths[(selected.frame["fold"] == fold).to_numpy(dtype=bool)]
        yes, no = (truths == 1).sum(axis=0), (truths == 0).sum(axis=0)
        is_poor = (yes > 0).sum() < 2 if task.activation == "softmax" else not ((yes > 0) & (no > 0)).all()
        if is_poor:
            counts = ", ".join(
                f"{name} {int(having)} with it and {int(lacking)} without"
                for name, having, lacking in zip(task.classes, yes, no, strict=True)
            )
            raise RunError(
                f"Fold {fold + 1} of {folds} has {len(truths)} usable images ({counts}); a fold chooses epoch and "
                "threshold of another run, and needs images with and without each class. Patients stay whole: ask for "
                "fewer --folds, or leave the class out."
            )


def _begin(
    folder: Path, recipe: TrainingRecipe, manifest: Path, *, folds: int, start: Path | None, train_only: Sequence[str]
) -> None:
    """Record what is cross-validated; refuse a folder of another cross-validation before anything is overwritten."""
    identity = {
        "recipe": recipe.digest,
        "manifest": sha256_of(manifest),
        "number of folds": folds,
        "start": None if start is None else open_run(start).fingerprint(),
        "sources of training": sorted(train_only),
    }
    file = folder / RECORD_FILE
    if file.exists():
        recorded = json.loads(file.read_text(encoding="utf-8"))
        if differing := [name for name, value in identity.items() if recorded.get(name) != value]:
            raise RunError(
                f"The folder holds a cross-validation of another {' and '.join(differing)}: name another folder, or "
                "give the command that began it."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, identity)


def _sides(fold_of_case: np.ndarray, fold: int, folds: int) -> np.ndarray:
    return np.where(fold_of_case == fold, "test", np.where(fold_of_case == (fold + 1) % folds, "val", "train"))


def _refuse_seen(run: Run) -> None:
    if (seen := count_seen(run)["test"]) > 0:
        raise RunError(
            f"The run to start from was trained on {seen} of these images or their patients, and has learnt their "
            "labels: start from another run, or from published weights."
        )
