"""The end of a run: a float32 graph with its calibration inside, the operating point, the predictions.

Temperature, bias and threshold come from the validation images and from nothing else; the test
images are only predicted.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from training.evaluation import (
    OPERATING_POINT_FILE,
    ClassThreshold,
    OperatingPoints,
    Predictions,
    choose_operating_points,
    tabulate,
    write_operating_points,
    write_predictions,
)
from training.files import write_json
from training.inputs.batches import plain_batches
from training.inputs.cache import Cache
from training.inputs.targets import UNKNOWN, strata
from training.metrics.calibration import Recalibration, fit_sigmoid, fit_softmax
from training.networks import build, save_network
from training.networks.keras_types import KerasModel
from training.recipe import TrainingRecipe
from training.runs.folder import CALIBRATION_FILE, MODEL_FILE, RUN_FILE, Run, end_run
from training.runs.loop import Floats, Side, predict_logits


def finalise(run: Run, network: KerasModel, cache: Cache, sides: dict[str, Side]) -> Run:
    """Write everything that a run ends in.

    Parameters
    ----------
    run
        The run, fitted.
    network
        With the weights that were kept; of any precision.
    cache
        The images.
    sides
        ``train``, ``val`` and ``test``; the test may be empty.
    """
    return finalise_float32(run, to_float32(run.recipe, network), cache, sides)


def finalise_float32(run: Run, network: KerasModel, cache: Cache, sides: dict[str, Side]) -> Run:
    """Do the same for a graph that is float32 throughout, with layers ``logit``, ``calibrate`` and ``prob``."""
    recipe = run.recipe
    calibration = calibrate(recipe, network, cache, sides["val"])
    write_json(run.folder / CALIBRATION_FILE, calibration)
    created = json.loads((run.folder / RUN_FILE).read_text(encoding="utf-8"))["created"]
    save_network(network, run.folder / MODEL_FILE, now=datetime.fromisoformat(created))
    validation = predict(recipe, network, cache, sides["val"])
    write_predictions(validation, run.folder / "predictions_val.csv")
    if len(sides["test"].places):
        write_predictions(predict(recipe, network, cache, sides["test"]), run.folder / "predictions_test.csv")
    write_operating_points(choose_thresholds(recipe, validation), run.folder / OPERATING_POINT_FILE)
    return end_run(run)


def to_float32(recipe: TrainingRecipe, network: KerasModel) -> KerasModel:
    """Build the network again in float32: a policy of mixed precision would travel inside the file."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(recipe.seed)  # dropout's own, which the file holds too
    try:
        network = build(
            recipe.network.architecture,
            classes=len(recipe.task.classes),
            activation=recipe.task.activation,
            size=recipe.pixels.size,
            head=recipe.network.make_head(),
            scaling=recipe.network.scaling,
        )
    finally:
        keras.config.set_dtype_policy(before)
    network.set_weights(network.get_weights())
    return network


def calibrate(recipe: TrainingRecipe, network: KerasModel, cache: Cache, validation: Side) -> dict[str, Any]:
    """Fit temperature and bias on the validation images and put them into the graph.

    Returns
    -------
    dict
        What was done, for ``calibration.json``.
    """
    classes = recipe.task.classes
    if recipe.finish.calibration == "none":
        return {"calibrated": False, "reason": "not asked for"}
    logits = predict_logits(_ending_in(network, "logit"), cache, validation)
    found = _fit(recipe, validation.cases.truths, logits)
    if found is None:
        return {"calibrated": False, "reason": "a class has no validation image, or every image is of one class"}
    layer = network.get_layer("calibrate")
    if len(found) == 1:
        layer.scale, layer.offset = found[0].scale, list(found[0].offset)
    else:
        layer.scale, layer.offset = [each.scale for each in found], [each.offset[0] for each in found]
    return {
        "calibrated": True,
        "classes": list(classes),
        "scale": layer.scale,
        "offset": layer.offset,
        "loss_before": [each.loss_before for each in found],
        "loss_after": [each.loss_after for each in found],
        "chosen_on": "the validation images",
        "images": len(validation.places),
    }


def _fit(recipe: TrainingRecipe, truths: Floats, logits: Floats) -> list[Recalibration] | None:
    if recipe.task.activation == "softmax":
        one = fit_softmax(strata(truths), logits)
        return None if one is None else [one]
    found = []
    for place in range(truths.shape[1]):
        is_known = truths[:, place] != UNKNOWN
        each = fit_sigmoid(truths[is_known, place] > 0.5, logits[is_known, place])
        if each is None:
            return None
        found.append(each)
    return found


def predict(recipe: TrainingRecipe, network: KerasModel, cache: Cache, side: Side) -> Predictions:
    """Predict one side's cases with the graph as it is exported."""
    batches = plain_batches(cache, side.places, side.cases.truths, batch_size=32)
    outputs = keras.Model(network.input, [network.get_layer(name).output for name in ("calibrate", "prob")])
    logits, probabilities = (np.asarray(each, np.float64) for each in outputs.predict(batches, verbose=0))
    return tabulate(
        side.cases.frame,
        recipe.task.classes,
        logits=logits,
        probabilities=probabilities,
        truth=truth_column(recipe, side.cases.truths),
    )


def choose_thresholds(recipe: TrainingRecipe, validation: Predictions) -> OperatingPoints:
    """Choose the threshold of each class on the validation images, or take the recipe's."""
    rule, target = recipe.finish.rule, recipe.finish.target
    if rule != "fixed":
        return choose_operating_points(validation, rule=rule, target=target, seed=recipe.seed)
    prevalence = {name: _share(validation, name) for name in validation.classes}
    return OperatingPoints(
        rule=f"fixed at {target:g} by the recipe",
        chosen_on="no images: the recipe says it",
        images=len(validation),
        prevalence=prevalence,
        classes={name: ClassThreshold(threshold=target) for name in validation.classes},
    )


def _share(validation: Predictions, name: str) -> float:
    known = validation.known(name)
    return float(validation.truth(name)[known].mean()) if known.any() else 0.0


def truth_column(recipe: TrainingRecipe, truths: Floats) -> NDArray[Any]:
    """Give the truths as ``training.evaluation.predictions.tabulate`` takes them."""
    if recipe.task.activation == "softmax" or truths.shape[1] == 1:
        return strata(truths)
    return truths


def _ending_in(network: KerasModel, layer: str) -> KerasModel:
    return keras.Model(network.input, network.get_layer(layer).output)
