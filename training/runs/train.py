"""Pretrain and fine-tune: from a manifest and a recipe to a run's folder with a calibrated model.

Both do the same in the same order; what differs is where the weights come from (``Start``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import keras
import numpy as np

from cxr.errors import RunError
from training.files import write_json
from training.inputs.cache import Cache, ReportProgress, build_cache
from training.inputs.targets import Cases, select
from training.networks import build
from training.networks.keras_types import KerasModel
from training.recipe import TrainingRecipe
from training.runs.brisque_filter import find_unnatural, summarise
from training.runs.devices import computing, describe_machine, software_versions
from training.runs.finalise import finalise
from training.runs.folder import MODEL_FILE, Run, begin_run, open_run
from training.runs.freezing import Phase, effective_stages
from training.runs.initial_weights import copy_weights, imagenet_file, verify_weights_file
from training.runs.lineage import record_inherited_cases
from training.runs.loop import Side, TrainingData, TrainingLoop
from training.runs.lung_mask_model import check_mask_model, masking_of

LEFT_OUT_FILE: Final = "left_out.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run is given beside recipe and images, and what does not change its result.

    Parameters
    ----------
    cache
        Folder of prepared images, shared by runs; None: in the run's folder.
    processes
        How many prepare images; None: one for each core.
    progress
        Called with a step's name, how much is done, and of how much.
    """

    cache: Path | None = None
    processes: int | None = None
    progress: ReportProgress = lambda step, done, total: None


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
        The run's; one that was killed goes on, one that is done is returned.
    now
        The time that is recorded.
    options
        Cache, processes, progress.

    Raises
    ------
    RunError
        If the recipe, the folder and the machine do not fit together.
    ManifestError, SplitError
        If the cases can't be read or divided.
    """
    if recipe.weights.source == "run":
        raise RunError("This recipe goes on with an earlier run: use `cxr train finetune --from RUN`.")
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
    """Go on with the network of an earlier run, on other images; parameters as of ``pretrain``.

    Parameters
    ----------
    start
        The finished run's folder; None only for recipes whose weights come from elsewhere.
    """
    if (recipe.weights.source == "run") != (start is not None):
        raise RunError(
            "This recipe goes on with an earlier run: name it with --from RUN."
            if start is None
            else f'The recipe says weights.source = "{recipe.weights.source}": leave --from out, or set it to "run".'
        )
    parent = None if start is None else open_run(start)
    if parent is not None:
        _check_parent(recipe, parent)
    return _train(recipe, manifest, folder, "finetune", parent, now, options or Options())


def _check_parent(recipe: TrainingRecipe, parent: Run) -> None:
    seen = parent.recipe.pixels
    if recipe.weights.other_size:
        seen = replace(seen, size=recipe.pixels.size)
    if seen.digest != recipe.pixels.digest:
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
        raise RunError("The two runs don't see the same of the lungs: give both the same lung_masks and --mask-model.")


def _train(
    recipe: TrainingRecipe,
    manifest: Path,
    folder: Path,
    phase: Phase,
    parent: Run | None,
    now: datetime,
    options: Options,
) -> Run:
    # What can't work is said before anything is written.
    stages, notes = effective_stages(
        recipe.stages,
        phase=phase,
        is_random=recipe.weights.source == "random",
        architecture=recipe.network.architecture,
    )
    weights = _weights_file(recipe)
    check_mask_model(recipe, folder)
    environment = {"software": software_versions(), "machine": describe_machine(), "notes": list(notes)}
    run = begin_run(folder, recipe, manifest, phase=phase, parent=parent, environment=environment, now=now)
    if run.is_done:
        return run
    record_inherited_cases(run, [parent] if parent is not None else [])
    cache, sides = prepare(run, options)
    with computing(recipe.compute, recipe.seed) as strategy:
        with strategy.scope():
            network = make_network(recipe, weights)
            if parent is not None:
                _inherit(network, parent, with_head=recipe.weights.head == "keep")
        data = TrainingData(cache, sides["train"], sides["val"])
        TrainingLoop(run, network, stages, data, strategy=strategy, progress=options.progress).fit()
    return finalise(run, network, cache, sides)


def make_network(recipe: TrainingRecipe, weights: Path | None) -> KerasModel:
    """Build a recipe's network under the current precision."""
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
    wanted = recipe.weights
    if wanted.source == "imagenet":
        return imagenet_file(recipe.network.architecture)
    if wanted.path is not None and wanted.sha256 is not None:
        return verify_weights_file(Path(wanted.path), wanted.sha256)
    return None


def _inherit(network: KerasModel, parent: Run, *, with_head: bool) -> None:
    parents = keras.saving.load_model(parent.folder / MODEL_FILE, compile=False, safe_mode=True)
    copy_weights(parents, network, with_head=with_head)


def prepare(run: Run, options: Options) -> tuple[Cache, dict[str, Side]]:
    """Choose the cases, prepare their images, and divide both; write down what takes no part."""
    chosen = select(run.manifest(), run.recipe.task)
    cache, sides = gather(run, chosen, options)
    codes = sorted({refused.code for refused in cache.refused})
    refused = {code: [each.image_id for each in cache.refused if each.code == code] for code in codes}
    left_out = find_unnatural(
        run, cache, [name for name in chosen.frame["image_id"] if name in cache.rows_by_id], options.progress
    )
    write_json(
        run.folder / LEFT_OUT_FILE,
        {"not_selected": chosen.left_out, "not_prepared": refused, **summarise(run, left_out)},
    )
    for name in ("train", "val"):
        truths = sides[name].cases.truths
        if not len(truths) or not (truths > 0.5).any() or (truths[:, 0] > 0.5).all():
            raise RunError(
                f"The {name} side has {len(truths)} usable images, not of two classes: nothing can be learnt or chosen "
                "from it. See left_out.json in the run's folder, and divide the cases anew (`cxr train split`)."
            )
    return cache, sides


def gather(run: Run, chosen: Cases, options: Options) -> tuple[Cache, dict[str, Side]]:
    """Prepare the images of a run's cases, and divide both by side; what can't be prepared is not in them."""
    cache = build_cache(
        chosen.frame,
        run.recipe.pixels,
        options.cache or run.folder / "cache",
        processes=options.processes,
        progress=options.progress,
        masking=masking_of(run),
    )
    is_there = chosen.frame["image_id"].isin(list(cache.rows_by_id)).to_numpy(dtype=bool)
    beyond = find_unnatural(run, cache, chosen.frame["image_id"][is_there].tolist(), options.progress)
    is_there = is_there & ~chosen.frame["image_id"].isin(list(beyond)).to_numpy(dtype=bool)
    cases = Cases(chosen.frame[is_there].reset_index(drop=True), chosen.truths[is_there], chosen.left_out)
    return cache, {name: _side(cases.side(name), cache) for name in ("train", "val", "test")}


def _side(cases: Cases, cache: Cache) -> Side:
    return Side(cases, np.asarray(cache.rows(cases.frame["image_id"]), np.int64))
