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
from typing import Any, Final

import keras
import numpy as np

from training.finish import finish_plain
from training.fit import Options, prepare
from training.fitting import predict_logits
from training.recipe import TrainingRecipe
from training.run import MODEL_FILE, Run, begin_ensemble, open_run, write_json

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
    cache, sides = prepare(run, options or Options())
    graphs = [keras.saving.load_model(each.folder / MODEL_FILE, compile=False, safe_mode=True) for each in runs]
    parts = [_part(graph, place) for place, graph in enumerate(graphs)]
    logits = np.stack([predict_logits(part, cache, sides["val"]) for part in _logits_of(parts)])
    write_json(
        run.folder / SPREAD_FILE,
        {
            "members": len(runs),
            "measured_on": "the validation images",
            "mean_standard_deviation_of_logits": float(logits.std(axis=0, ddof=1).mean()),
            "classes": list(run.recipe.task.classes),
        },
    )
    return finish_plain(run, join(parts, run.recipe), cache, sides)


def join(parts: Sequence[Any], recipe: TrainingRecipe) -> Any:  # noqa: ANN401 (Keras models)
    """Make one graph of several: the same input, the mean of logits and, where they have them, of evidence maps."""
    image = keras.Input((recipe.pixels.size, recipe.pixels.size, 1), name="image")
    outputs = [part(image) for part in parts]
    has_evidence = recipe.network.head == "evidence"
    logit = keras.layers.Average(name="logit")([each[0] if has_evidence else each for each in outputs])
    offset = [0.0] * len(recipe.task.classes)
    calibrated = keras.layers.Rescaling(1.0, offset=offset, name="calibrate")(logit)
    probability = keras.layers.Activation(recipe.task.activation, name="prob")(calibrated)
    results = [probability]
    if has_evidence:
        results.append(keras.layers.Average(name="evidence")([each[1] for each in outputs]))
    return keras.Model(image, results, name="ensemble")


def _part(graph: Any, place: int) -> Any:  # noqa: ANN401
    """Cut a member off before its own calibration."""
    outputs = [graph.get_layer("logit").output]
    if "evidence" in graph.output_names:
        outputs.append(graph.get_layer("evidence").output)
    return keras.Model(graph.input, outputs if len(outputs) > 1 else outputs[0], name=f"member{place}")


def _logits_of(parts: Sequence[Any]) -> list[Any]:
    return [keras.Model(part.input, part.outputs[0]) for part in parts]
