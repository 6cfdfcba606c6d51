"""Quantisation of a finished run: large kernels in 8 bits with a scale per output channel.

The weights are rounded first; calibration, operating points and predictions are then computed with the
rounded weights, so that every figure belongs to the shipped model.

References
----------
Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference" (weights alone,
symmetric, per channel).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np

from cxr.errors import RunError
from cxr.package.compact_weights import Floats, scales_of, to_levels
from training.cases import write_manifest
from training.files import write_json, write_whole
from training.networks.keras_types import KerasModel
from training.runs.finalise import finalise_float32
from training.runs.folder import (
    CHECKPOINTS,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    PREPROCESS_FILE,
    RUN_FILE,
    SPLITS_FILE,
    Run,
    open_run,
)
from training.runs.train import Options, prepare_run

SMALLEST: Final = 4096
"""Kernels with fewer values are not rounded: they need little space."""

_MANTISSA: Final = 1 << 12


def quantise_run(source: Path, folder: Path, *, now: datetime, options: Options | None = None) -> Run:
    """Round a run's weights and finalise it as a new run.

    Parameters
    ----------
    source
        A finished run's folder.
    folder
        The new run's folder; an interrupted call with the same arguments resumes in it.
    now
        Time recorded in the run.
    options
        Cache, processes, progress.

    Raises
    ------
    RunError
        If the source is not finished, or the folder holds another run.
    """
    original = open_run(source)
    run = _begin(original, folder, now=now)
    if run.is_done:
        return run
    cache, sides = prepare_run(run, options or Options())
    network = keras.saving.load_model(source / MODEL_FILE, compile=False, safe_mode=True)
    network.set_weights(quantise(network.get_weights()))
    _reset_calibration(network, len(run.recipe.task.classes))
    return finalise_float32(run, network, cache, sides)


def quantise(weights: Sequence[Floats]) -> list[Floats]:
    """Round the large kernels among weights.

    Parameters
    ----------
    weights
        Arrays of any shape; the last axis of a kernel is its output channel.

    Returns
    -------
    list
        Arrays of the same shapes; quantising them again changes nothing.
    """
    return [_rounded(each) if each.ndim > 1 and each.size >= SMALLEST else each for each in weights]


def _rounded(kernel: Floats) -> Floats:
    scales = _short(scales_of(kernel))
    rounded: Floats = (to_levels(kernel, scales).astype(np.float32) * scales).astype(np.float32)
    return rounded


def _short(scales: Floats) -> Floats:
    """Round scales up to 12 bits, so that their products with integers up to 127 are exact."""
    mantissa, exponent = np.frexp(scales.astype(np.float64))
    short: Floats = np.ldexp(np.ceil(mantissa * _MANTISSA) / _MANTISSA, exponent).astype(np.float32)
    return short


def _reset_calibration(network: KerasModel, classes: int) -> None:
    layer = network.get_layer("calibrate")
    layer.scale, layer.offset = 1.0, [0.0] * classes


def _begin(original: Run, folder: Path, *, now: datetime) -> Run:
    fingerprint = original.fingerprint()
    if (folder / RUN_FILE).exists():
        if _read(folder / RUN_FILE).get("quantised") != fingerprint:
            raise RunError("The folder holds another run: name another folder.")
        return open_run(folder)
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_FILE, SPLITS_FILE, ENVIRONMENT_FILE, PREPROCESS_FILE):
        write_whole(folder / name, (original.folder / name).read_bytes())
    write_manifest(original.manifest(), folder / MANIFEST_FILE)
    recorded = _read(original.folder / RUN_FILE) | {"parent": fingerprint, "quantised": fingerprint}
    write_json(folder / RUN_FILE, recorded | {"created": now.isoformat()})
    return Run(folder, original.recipe, original.phase, fingerprint, is_done=False)


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
