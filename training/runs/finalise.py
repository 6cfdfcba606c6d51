"""Finalise a run: float32 model with calibration, operating points, predictions.

Temperature, bias and thresholds are chosen on the validation images alone; the test images are only
predicted.
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
    """Write a trained run's model, calibration, operating points, predictions and fingerprint.

    Parameters
    ----------
    run
        The run, trained.
    network
        The network with its final weights, of any precision.
    cache
        The prepared images.
    sides
        ``train``, ``val`` and ``test``; ``test`` may be empty.
    """
    return finalise_float32(run, to_float32(run.recipe, network), cache, sides)


def finalise_float32(run: Run, network: KerasModel, cache: Cache, sides: dict[str, Side]) -> Run:
    """Finalise a run whose network is float32 and has the layers ``logit``, ``calibrate`` and ``prob``."""
    recipe = run.recipe
    calibration = calibrate(recipe, network, cache, sides["val"])
    write_json(run.folder / CALIBRATION_FILE, calibration)
    created = json.loads((run.folder / RUN_FILE).read_text(encoding="utf-8"))["created"]
    save_network(network, run.folder / MODEL_FILE, now=datetime.fromisoformat(created))
    validation = predict(recipe, network, cache, sides["val"])
    write_predictions(validation, run.folder / "predictions_val.csv")
    if len(sides["test"].rows):
        write_predictions(predict(recipe, network, cache, sides["test"]), run.folder / "predictions_test.csv")
    write_operating_points(choose_thresholds(recipe, validation), run.folder / OPERATING_POINT_FILE)
    return end_run(run)


def to_float32(recipe: TrainingRecipe, network: KerasModel) -> KerasModel:
    """Rebuild the network in float32 with the same weights: a Keras file would keep the mixed-precision policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(recipe.seed)  # the seed of dropout, which is saved in the file
    try:
        float32_network = build(
            recipe.network.architecture,
            classes=len(recipe.task.classes),
            activation=recipe.task.activation,
            size=recipe.pixels.size,
            head=recipe.network.make_head(),
            scaling=recipe.network.scaling,
        )
    finally:
        keras.config.set_dtype_policy(before)
    float32_network.set_weights(network.get_weights())
    return float32_network


def calibrate(recipe: TrainingRecipe, network: KerasModel, cache: Cache, validation: Side) -> dict[str, Any]:
    """Fit temperature and bias on the validation images and set them in the layer ``calibrate``.

    Returns
    -------
    dict
        Content of ``calibration.json``.
    """
    classes = recipe.task.classes
    if recipe.finish.calibration == "none":
        return {"calibrated": False, "reason": "not asked for"}
    logits = predict_logits(_model_up_to(network, "logit"), cache, validation)
    fits = _fit(recipe, validation.cases.truths, logits)
    if fits is None:
        return {"calibrated": False, "reason": "a class has no validation image, or every image is of one class"}
    layer = network.get_layer("calibrate")
    if len(fits) == 1:
        layer.scale, layer.offset = fits[0].scale, list(fits[0].offset)
    else:
        layer.scale, layer.offset = [fit.scale for fit in fits], [fit.offset[0] for fit in fits]
    return {
        "calibrated": True,
        "classes": list(classes),
        "scale": layer.scale,
        "offset": layer.offset,
        "loss_before": [fit.loss_before for fit in fits],
        "loss_after": [fit.loss_after for fit in fits],
        "chosen_on": "the validation images",
        "images": len(validation.rows),
    }


def _fit(recipe: TrainingRecipe, truths: Floats, logits: Floats) -> list[Recalibration] | None:
    if recipe.task.activation == "softmax":
        joint = fit_softmax(strata(truths), logits)
        return None if joint is None else [joint]
    fits = []
    for output in range(truths.shape[1]):
        is_known = truths[:, output] != UNKNOWN
        fit = fit_sigmoid(truths[is_known, output] > 0.5, logits[is_known, output])
        if fit is None:
            return None
        fits.append(fit)
    return fits


def predict(recipe: TrainingRecipe, network: KerasModel, cache: Cache, side: Side) -> Predictions:
    """Predict the cases of one side with the calibrated network."""
    batches = plain_batches(cache, side.rows, side.cases.truths, batch_size=32)
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
    """Choose each class's threshold on the validation images; with ``rule = fixed`` return the recipe's."""
    rule, target = recipe.finish.rule, recipe.finish.target
    if rule != "fixed":
        return choose_operating_points(validation, rule=rule, target=target, seed=recipe.seed)
    prevalence = {name: _prevalence(validation, name) for name in validation.classes}
    return OperatingPoints(
        rule=f"fixed at {target:g} by the recipe",
        chosen_on="no images: the recipe says it",
        images=len(validation),
        prevalence=prevalence,
        classes={name: ClassThreshold(threshold=target) for name in validation.classes},
    )


def _prevalence(validation: Predictions, name: str) -> float:
    is_known = validation.has_truth(name)
    return float(validation.truth(name)[is_known].mean()) if is_known.any() else 0.0


def truth_column(recipe: TrainingRecipe, truths: Floats) -> NDArray[Any]:
    """Convert truths (N, classes) for ``training.evaluation.predictions.tabulate``: (N,) for one label per image."""
    if recipe.task.activation == "softmax" or truths.shape[1] == 1:
        return strata(truths)
    return truths


def _model_up_to(network: KerasModel, layer: str) -> KerasModel:
    return keras.Model(network.input, network.get_layer(layer).output)
