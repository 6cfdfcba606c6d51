"""Scoring on the CPU: Keras's own methods, the compiled TensorFlow graph of the service, and OpenVINO."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import keras
import numpy as np
from figures import Figure, Part

from inference.model.model import Model
from training.packaging.untrained import build_untrained

SIZES = (1, 16)
MIN_RATIO = 1.7
MAX_DIFFERENCE = 1e-4
SIDE = 2048  # of a matrix larger than the caches


def ceiling(graph: keras.Model) -> float:
    """Return images/s if a network needed only its multiplications, at the speed of a large matrix product."""
    layers = (each for each in graph._flatten_layers() if isinstance(each, keras.layers.Conv2D | keras.layers.Dense))
    products = sum(math.prod(each.output.shape[1:-1]) * math.prod(each.kernel.shape) for each in layers)
    matrix = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    (seconds,) = alternating([lambda batch: batch @ batch], matrix, 20)
    return SIDE**3 / seconds / products


def alternating(scorers: list[Callable[[np.ndarray], object]], batch: np.ndarray, repeats: int) -> list[float]:
    """Return the median seconds of each, in alternation: other load of the machine affects all of them."""
    times: list[list[float]] = [[] for _ in scorers]
    for repeat in range(repeats + 1):
        for score, seconds in zip(scorers, times, strict=True):
            start = time.perf_counter()
            score(batch)
            if repeat:  # the first call compiles
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def measure(folder: Path, *, quick: bool) -> Part:
    package = build_untrained(folder / "untrained", now=datetime.now(UTC))
    plain = Model.load(package, device="cpu")
    openvino = Model.load(package, device="cpu", runtime="openvino")
    graph = keras.saving.load_model(package.model_path, compile=False)
    scorers: dict[str, Callable[[np.ndarray], object]] = {
        "Keras predict_on_batch": graph.predict_on_batch,
        "Keras predict": lambda batch: graph.predict(batch, verbose=0),
        "runtime = tensorflow": plain.score,
        "runtime = openvino": openvino.score,
    }
    size = package.manifest.input_size
    films = np.random.default_rng(0).random((max(SIZES), size, size, 1), dtype=np.float32)
    rates: dict[str, list[float]] = {name: [] for name in scorers}
    for count in SIZES:
        batch, repeats = films[:count], 3 if quick else 40 // count + 5
        for name, seconds in zip(scorers, alternating(list(scorers.values()), batch, repeats), strict=True):
            rates[name].append(count / seconds)
    keras_rates = rates["Keras predict_on_batch"]
    lines = [
        f"| {name} | "
        + " | ".join(f"{rate:.1f} ({rate / base:.2f})" for rate, base in zip(rates_of_scorer, keras_rates, strict=True))
        + " |"
        for name, rates_of_scorer in rates.items()
    ]
    lines.append(f"| the machine's matrix products (NumPy) | {ceiling(graph):.1f} | |")
    difference = float(np.abs(plain.score(films).probabilities - openvino.score(films).probabilities).max())
    return Part(
        "## Scoring on the CPU\n\n`python bench/run.py scoring` · ResNet50 at 224, float32; images/s, the median, "
        "in alternation; in brackets the ratio to Keras\n\n| scorer | "
        + " | ".join(f"batch {count}" for count in SIZES)
        + " |\n|---|"
        + "---|" * len(SIZES)
        + "\n"
        + "\n".join(lines)
        + f"\n\nLargest difference of OpenVINO's scores from TensorFlow's: {difference:.1g}.\n",
        [
            Figure("OpenVINO ÷ Keras predict, batch 1", f"≥ {MIN_RATIO}", *_ratio(rates, "predict")),
            Figure("OpenVINO ÷ Keras predict_on_batch, batch 1", f"≥ {MIN_RATIO}", *_ratio(rates, "predict_on_batch")),
            Figure(
                "OpenVINO's scores", f"within {MAX_DIFFERENCE:g}", f"{difference:.1g}", difference <= MAX_DIFFERENCE
            ),
        ],
    )


def _ratio(rates: dict[str, list[float]], method: str) -> tuple[str, bool]:
    ratio = rates["runtime = openvino"][0] / rates[f"Keras {method}"][0]
    return f"{ratio:.2f}", ratio >= MIN_RATIO
