"""Ensemble: runs that differ in their seed joined into one network, the mean of their logits, recalibrated.

The spread of the members is the effect of the seed alone, not a confidence interval of a patient's risk.

References
----------
Lakshminarayanan et al. 2017, "Simple and scalable predictive uncertainty estimation using deep ensembles".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import keras
import numpy as np

from training.files import write_json
from training.networks import FEATURES, feature_layer
from training.networks.keras_types import KerasModel, Tensor
from training.recipe import TrainingRecipe
from training.runs.finalise import finalise_float32
from training.runs.folder import MODEL_FILE, Run, begin_ensemble, open_run
from training.runs.lineage import record_inherited_cases
from training.runs.loop import predict_logits
from training.runs.train import Options, prepare_run

SPREAD_FILE: Final = "spread.json"


def ensemble(members: Sequence[Path], folder: Path, *, now: datetime, options: Options | None = None) -> Run:
    """Join finished runs into an ensemble.

    Parameters
    ----------
    members
        Folders of the runs, which differ only in their seed.
    folder
        The ensemble's folder, a run's folder for ``cxr train evaluate`` and ``package``.
    now
        Time recorded in the run.
    options
        Cache, processes, progress.

    Raises
    ------
    RunError
        If the runs differ in more than their seed, or a run is not finished.
    """
    runs = [open_run(member) for member in members]
    run = begin_ensemble(folder, runs, now=now)
    if run.is_done:
        return run
    record_inherited_cases(run, runs)
    cache, sides = prepare_run(run, options or Options())
    graphs = [keras.saving.load_model(each.folder / MODEL_FILE, compile=False, safe_mode=True) for each in runs]
    logit_models = [keras.Model(graph.input, graph.get_layer("logit").output) for graph in graphs]
    logits = np.stack([predict_logits(each, cache, sides["val"]) for each in logit_models])
    write_json(
        run.folder / SPREAD_FILE,
        {
            "members": len(runs),
            "measured_on": "the validation images",
            "mean_standard_deviation_of_logits": float(logits.std(axis=0, ddof=1).mean()),
            "classes": list(run.recipe.task.classes),
        },
    )
    return finalise_float32(run, join_networks(graphs, run.recipe), cache, sides)


def join_networks(graphs: Sequence[KerasModel], recipe: TrainingRecipe) -> KerasModel:
    """Build one network from the members.

    The layer ``features`` concatenates the last feature maps of the members; the input gate and Grad-CAM
    use it. One head reads it: for evidence heads a 1 x 1 convolution with the members' weights divided by
    their number, so that its map and logit are the means of theirs.

    Parameters
    ----------
    graphs
        Networks from ``training.networks.network.build`` that differ only in their weights.
    recipe
        Recipe of the members.

    Returns
    -------
    keras.Model
        Inputs, outputs and layer names as from ``training.networks.network.build``, and ``features``.
    """
    image = keras.Input((recipe.pixels.size, recipe.pixels.size, 1), name="image")
    maps = [_trunk(graph, member)(image) for member, graph in enumerate(graphs)]
    features = keras.layers.Concatenate(name=FEATURES)(maps)
    if recipe.network.head == "evidence":
        evidence = _evidence(graphs, features)
        logit = keras.layers.GlobalAveragePooling2D(name="logit", dtype="float32")(evidence)
    else:
        evidence = None
        heads = [_head(graph, member)(_maps_of(features, member, len(graphs))) for member, graph in enumerate(graphs)]
        logit = keras.layers.Average(name="logit", dtype="float32")(heads)
    calibrated = keras.layers.Rescaling(1.0, offset=[0.0] * len(recipe.task.classes), name="calibrate")(logit)
    probability = keras.layers.Activation(recipe.task.activation, name="prob")(calibrated)
    return keras.Model(image, [probability] if evidence is None else [probability, evidence], name="ensemble")


def _trunk(graph: KerasModel, member: int) -> KerasModel:
    return keras.Model(graph.input, graph.get_layer(feature_layer(graph)).output, name=f"member{member}")


def _head(graph: KerasModel, member: int) -> KerasModel:
    maps = graph.get_layer(feature_layer(graph)).output
    return keras.Model(maps, graph.get_layer("logit").output, name=f"head{member}")


def _evidence(graphs: Sequence[KerasModel], features: Tensor) -> Tensor:
    kernels, biases = zip(*(graph.get_layer("evidence").get_weights() for graph in graphs), strict=True)
    layer = keras.layers.Conv2D(len(biases[0]), 1, name="evidence", dtype="float32")
    evidence = layer(features)
    layer.set_weights([np.concatenate(kernels, axis=2) / len(graphs), np.mean(biases, axis=0)])
    return evidence


def _maps_of(features: Tensor, member: int, members: int) -> Tensor:
    """Slice one member's maps with layers that serving accepts: channels become columns, which can be cropped."""
    _, height, width, channels = features.shape
    own = channels // members
    columns = keras.layers.Reshape((height * width, channels, 1))(features)
    maps = keras.layers.Cropping2D(((0, 0), (member * own, (members - 1 - member) * own)))(columns)
    return keras.layers.Reshape((height, width, own))(maps)
