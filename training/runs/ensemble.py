"""Several runs that differ in their seed, as one graph: the mean of their logits, calibrated anew.

How far the members are apart is what the seed alone changes; it is no interval of a patient's risk.

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
from training.runs.train import Options, prepare

SPREAD_FILE: Final = "spread.json"


def ensemble(members: Sequence[Path], folder: Path, *, now: datetime, options: Options | None = None) -> Run:
    """Put finished runs together.

    Parameters
    ----------
    members
        Their folders; they differ in nothing but the seed.
    folder
        The ensemble's: a run's folder, which ``cxr train evaluate`` and ``package`` take.
    now
        The time that is recorded.
    options
        Cache, processes, progress.

    Raises
    ------
    RunError
        If the runs do not belong together.
    """
    runs = [open_run(member) for member in members]
    run = begin_ensemble(folder, runs, now=now)
    if run.is_done:
        return run
    record_inherited_cases(run, runs)
    cache, sides = prepare(run, options or Options())
    graphs = [keras.saving.load_model(each.folder / MODEL_FILE, compile=False, safe_mode=True) for each in runs]
    ends = [keras.Model(graph.input, graph.get_layer("logit").output) for graph in graphs]
    logits = np.stack([predict_logits(each, cache, sides["val"]) for each in ends])
    write_json(
        run.folder / SPREAD_FILE,
        {
            "members": len(runs),
            "measured_on": "the validation images",
            "mean_standard_deviation_of_logits": float(logits.std(axis=0, ddof=1).mean()),
            "classes": list(run.recipe.task.classes),
        },
    )
    return finalise_float32(run, join(graphs, run.recipe), cache, sides)


def join(graphs: Sequence[KerasModel], recipe: TrainingRecipe) -> KerasModel:
    """Make one graph of several.

    The members' last maps stand one after the other in a layer ``features``, which the input gate and
    Grad-CAM look at. One head reads them: for evidence heads a 1 x 1 convolution with the members'
    weights divided by their number, whose map and logit are the means of theirs.

    Parameters
    ----------
    graphs
        From ``training.networks.network.build``, alike but for their weights.
    recipe
        Theirs.
    """
    image = keras.Input((recipe.pixels.size, recipe.pixels.size, 1), name="image")
    maps = [_trunk(graph, place)(image) for place, graph in enumerate(graphs)]
    features = keras.layers.Concatenate(name=FEATURES)(maps)
    if recipe.network.head == "evidence":
        evidence = _evidence(graphs, features)
        logit = keras.layers.GlobalAveragePooling2D(name="logit", dtype="float32")(evidence)
    else:
        evidence = None
        heads = [_head(graph, place)(_share(features, place, len(graphs))) for place, graph in enumerate(graphs)]
        logit = keras.layers.Average(name="logit", dtype="float32")(heads)
    calibrated = keras.layers.Rescaling(1.0, offset=[0.0] * len(recipe.task.classes), name="calibrate")(logit)
    probability = keras.layers.Activation(recipe.task.activation, name="prob")(calibrated)
    return keras.Model(image, [probability] if evidence is None else [probability, evidence], name="ensemble")


def _trunk(graph: KerasModel, place: int) -> KerasModel:
    return keras.Model(graph.input, graph.get_layer(feature_layer(graph)).output, name=f"member{place}")


def _head(graph: KerasModel, place: int) -> KerasModel:
    maps = graph.get_layer(feature_layer(graph)).output
    return keras.Model(maps, graph.get_layer("logit").output, name=f"head{place}")


def _evidence(graphs: Sequence[KerasModel], features: Tensor) -> Tensor:
    kernels, biases = zip(*(graph.get_layer("evidence").get_weights() for graph in graphs), strict=True)
    layer = keras.layers.Conv2D(len(biases[0]), 1, name="evidence", dtype="float32")
    evidence = layer(features)
    layer.set_weights([np.concatenate(kernels, axis=2) / len(graphs), np.mean(biases, axis=0)])
    return evidence


def _share(features: Tensor, place: int, count: int) -> Tensor:
    """Cut one member's maps out again, with layers that are served: channels become columns, which can be cropped."""
    _, height, width, channels = features.shape
    each = channels // count
    columns = keras.layers.Reshape((height * width, channels, 1))(features)
    kept = keras.layers.Cropping2D(((0, 0), (place * each, (count - 1 - place) * each)))(columns)
    return keras.layers.Reshape((height, width, each))(kept)
