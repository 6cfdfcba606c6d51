"""Pretraining and fine-tuning: from a manifest and a recipe to a run's folder with a calibrated model.

The two differ only in their initial weights: published or random, or those of an earlier run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import keras
import numpy as np

from cxr.errors import RunError
from training.files import write_json
from training.inputs.cache import Cache, ReportProgress, build_cache
from training.inputs.label_table import LabelRow, describe, label_table
from training.inputs.targets import Cases, Floats, select
from training.networks import build
from training.networks.keras_types import KerasModel
from training.recipe import Task, TrainingRecipe
from training.runs.brisque_filter import find_unnatural, summarise
from training.runs.devices import describe_machine, device_scope, software_versions
from training.runs.finalise import finalise
from training.runs.folder import MODEL_FILE, RUN_FILE, Run, begin_run, open_run
from training.runs.freezing import Phase, effective_stages
from training.runs.initial_weights import check_trunk_weights, copy_weights, imagenet_file, verify_weights_file
from training.runs.lineage import record_inherited_cases
from training.runs.loop import Side, TrainingData, TrainingLoop
from training.runs.lung_mask_model import check_mask_model, masking_of_run

LEFT_OUT_FILE: Final = "left_out.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a run that do not change its result.

    Parameters
    ----------
    cache
        Folder of prepared images, shared by runs; None: in the run's folder.
    processes
        Number of processes that prepare images; None: one for each core.
    progress
        Called with the step's name, the amount done, and the total.
    show_labels
        Called before the first epoch with what the run makes of the manifest's labels.
    """

    cache: Path | None = None
    processes: int | None = None
    progress: ReportProgress = lambda step, done, total: None
    show_labels: Callable[[tuple[LabelRow, ...]], None] = lambda rows: None


def pretrain(
    recipe: TrainingRecipe, manifest: Path, folder: Path, *, now: datetime, options: Options | None = None
) -> Run:
    """Train a network whose trunk starts from random or published weights.

    Parameters
    ----------
    recipe
        ``weights.source`` is ``random``, ``file`` or ``imagenet``.
    manifest
        Its cases (``training.cases.manifest``).
    folder
        The run's folder; a run that was killed resumes, a finished one is returned.
    now
        Time recorded in the run.
    options
        Cache, processes, progress.

    Raises
    ------
    RunError
        If recipe, folder and machine do not fit together.
    ManifestError, SplitError
        If the cases can't be read or split.
    """
    if recipe.weights.source == "run":
        raise RunError("This recipe starts from an earlier run: use `cxr train finetune --from RUN`.")
    return _train(recipe, manifest, folder, "pretrain", None, now, options or Options())


def finetune(
    recipe: TrainingRecipe,
    manifest: Path,
    folder: Path,
    *,
    start: Path | None = None,
    now: datetime,
    options: Options | None = None,
) -> Run:
    """Continue training the network of an earlier run on other images; parameters as in ``pretrain``.

    Parameters
    ----------
    start
        Folder of the finished run; None only for recipes with other initial weights.
    """
    if (recipe.weights.source == "run") != (start is not None):
        raise RunError(
            "This recipe starts from an earlier run: name it with --from RUN."
            if start is None
            else f'The recipe has weights.source = "{recipe.weights.source}": leave --from out, or set it to "run".'
        )
    parent = None if start is None else open_run(start)
    if parent is not None:
        _check_parent(recipe, parent)
    return _train(recipe, manifest, folder, "finetune", parent, now, options or Options())


def _check_parent(recipe: TrainingRecipe, parent: Run) -> None:
    pixels = parent.recipe.pixels
    if recipe.weights.other_size:
        pixels = replace(pixels, size=recipe.pixels.size)
    if pixels.digest != recipe.pixels.digest:
        raise RunError(
            "The run that this one starts from was trained with another pixel recipe: give both the same [pixels] (of "
            "which size may differ with weights.other_size = true), or its weights see images of a kind that they were "
            "not trained on."
        )
    theirs, ours = parent.recipe.network, recipe.network
    if (theirs.architecture, theirs.scaling) != (ours.architecture, ours.scaling):
        raise RunError(
            f"The run that this one starts from has a {theirs.architecture} ({theirs.scaling} scaling), the recipe a "
            f"{ours.architecture} ({ours.scaling}): give both the same [network]."
        )
    masks = [(each.lung_masks, each.mask_model and each.mask_model.fingerprint) for each in (parent.recipe, recipe)]
    if masks[0] != masks[1]:
        raise RunError("The two runs mask the lungs in different ways: give both the same lung_masks and --mask-model.")


def _train(
    recipe: TrainingRecipe,
    manifest: Path,
    folder: Path,
    phase: Phase,
    parent: Run | None,
    now: datetime,
    options: Options,
) -> Run:
    # Check everything before any file is written.
    stages, notes = effective_stages(
        recipe.stages,
        phase=phase,
        is_random=recipe.weights.source == "random",
        architecture=recipe.network.architecture,
    )
    weights = _weights_file(recipe)
    check_mask_model(recipe, folder)
    if weights is not None and not (folder / RUN_FILE).exists():
        check_trunk_weights(weights, recipe.network.architecture, recipe.pixels.size, recipe.network.scaling)
    environment = {"software": software_versions(), "machine": describe_machine(), "notes": list(notes)}
    run = begin_run(folder, recipe, manifest, phase=phase, parent=parent, environment=environment, now=now)
    if run.is_done:
        return run
    record_inherited_cases(run, [parent] if parent is not None else [])
    cache, sides = prepare_run(run, options)
    with device_scope(recipe.compute, recipe.seed) as strategy:
        with strategy.scope():
            network = make_network(recipe, weights)
            if parent is not None:
                _copy_parent_weights(network, parent, with_head=recipe.weights.head == "keep")
        data = TrainingData(cache, sides["train"], sides["val"])
        TrainingLoop(run, network, stages, data, strategy=strategy, progress=options.progress).fit()
    return finalise(run, network, cache, sides)


def make_network(recipe: TrainingRecipe, weights: Path | None) -> KerasModel:
    """Build a recipe's network with Keras's current precision."""
    return build(
        recipe.network.architecture,
        classes=len(recipe.task.classes),
        activation=recipe.task.activation,
        size=recipe.pixels.size,
        weights=weights,
        head=recipe.network.make_head(),
        scaling=recipe.network.scaling,
    )


def _weights_file(recipe: TrainingRecipe) -> Path | None:
    initial = recipe.weights
    if initial.source == "imagenet":
        return imagenet_file(recipe.network.architecture)
    if initial.path is not None and initial.sha256 is not None:
        return verify_weights_file(Path(initial.path), initial.sha256)
    return None


def _copy_parent_weights(network: KerasModel, parent: Run, *, with_head: bool) -> None:
    parent_network = keras.saving.load_model(parent.folder / MODEL_FILE, compile=False, safe_mode=True)
    copy_weights(parent_network, network, with_head=with_head)


def prepare_run(run: Run, options: Options) -> tuple[Cache, dict[str, Side]]:
    """Select the cases, prepare their images, split both by side; record excluded images in ``left_out.json``.

    Raises
    ------
    RunError
        If the training or validation side lacks images of a class.
    """
    cases = run.manifest()
    selected = select(cases, run.recipe.task)
    cache, sides = prepare_sides(run, selected, options)
    codes = sorted({refused.code for refused in cache.refused})
    refused = {code: [each.image_id for each in cache.refused if each.code == code] for code in codes}
    left_out = find_unnatural(
        run, cache, [name for name in selected.frame["image_id"] if name in cache.rows_by_id], options.progress
    )
    not_usable = {each.image_id: f"not prepared, {each.code}" for each in cache.refused}
    not_usable |= dict.fromkeys(left_out, "BRISQUE score")
    labels = label_table(cases, run.recipe.task, not_usable)
    write_json(
        run.folder / LEFT_OUT_FILE,
        {
            "not_selected": selected.left_out,
            "not_prepared": refused,
            "labels": [asdict(row) for row in labels],
            **summarise(run, left_out),
        },
    )
    options.show_labels(labels)
    for name in ("train", "val"):
        _check_classes(name, sides[name].cases.truths, run.recipe.task, describe(labels, name))
    return cache, sides


def _check_classes(side: str, truths: Floats, task: Task, labels: str) -> None:
    """Refuse a side on which a class can't be learnt or calibrated: one without images that have it, or lack it."""
    counts = {
        each: (int((truths[:, output] == 1).sum()), int((truths[:, output] == 0).sum()))
        for output, each in enumerate(task.classes)
    }
    if task.activation == "softmax" and side == "val":
        # A class that only the validation lacks is not calibrated, and is said to be so.
        missing = list(counts) if sum(yes > 0 for yes, _ in counts.values()) < 2 else []
    else:
        missing = [each for each, (yes, no) in counts.items() if not (yes and no)]
    if missing:
        listed = ", ".join(f"{each} ({counts[each][0]} with it, {counts[each][1]} without)" for each in missing)
        raise RunError(
            f"The {side} side has {len(truths)} usable images, but not of two classes for each output; training and "
            f"calibration need both. Lacking: {listed}. Its labels, and what the recipe makes of them: "
            f"{labels or 'none'}. Correct [task] in the recipe if it lacks a label's word, or leave the class out; if "
            "it lacks none, split the cases again (`cxr train split`)."
        )


def prepare_sides(run: Run, selected: Cases, options: Options) -> tuple[Cache, dict[str, Side]]:
    """Prepare the images of a run's cases, and split both by side, without images that can't be prepared."""
    cache = build_cache(
        selected.frame,
        run.recipe.pixels,
        options.cache or run.folder / "cache",
        processes=options.processes,
        progress=options.progress,
        masking=masking_of_run(run),
    )
    is_there = selected.frame["image_id"].isin(list(cache.rows_by_id)).to_numpy(dtype=bool)
    excluded = find_unnatural(run, cache, selected.frame["image_id"][is_there].tolist(), options.progress)
    is_there = is_there & ~selected.frame["image_id"].isin(list(excluded)).to_numpy(dtype=bool)
    cases = Cases(selected.frame[is_there].reset_index(drop=True), selected.truths[is_there], selected.left_out)
    return cache, {name: _side(cases.side(name), cache) for name in ("train", "val", "test")}


def _side(cases: Cases, cache: Cache) -> Side:
    return Side(cases, np.asarray(cache.rows(cases.frame["image_id"]), np.int64))
