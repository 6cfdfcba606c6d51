"""Grad-CAM, for graphs without an evidence map of their own: an approximation, and named as one.

Loads TensorFlow, as ``inference.model.tensorflow_runtime`` does: backend-neutral Keras has no gradients.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cxr.package import PackageManifest
from cxr.package.grad_cam import grad_cam
from inference.model.batches import Explainer
from inference.model.tensorflow_runtime import load_graph, place_of

# A logarithm needs a number above 0; float32 has none nearer to 1.
_SMALLEST = 1e-7

# What comes after the last features: it pools, flattens or weighs them.
_NO_FEATURES = (
    keras.layers.AveragePooling2D,
    keras.layers.MaxPooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Cropping2D,
    keras.layers.Reshape,
    keras.layers.Dropout,
)


def load_explainer(path: Path, manifest: PackageManifest, device: str) -> Explainer | None:
    """Load a graph that gives Grad-CAM maps.

    Parameters
    ----------
    path
        The ``.keras`` file, looked into before (``inference.model.graph_file``).
    manifest
        What the graph fits.
    device
        ``cpu`` or ``gpu:N``.

    Returns
    -------
    Explainer | None
        From images (N, size, size, 1) in [0, 1] to maps (N, height, width, classes): at least 0, and
        comparable within one map only. None: the graph has no map of features.

    Raises
    ------
    IncompatiblePackage
        If Keras does not load the file.
    """
    place = place_of(device)
    with tf.device(place):
        graph = load_graph(path)
        features = _last_features(graph)
        if features is None:
            return None
        to_features = keras.Model(graph.inputs, features)
        to_logits = keras.Model(features, _before_activation(graph, manifest.outputs.probabilities))
    count = len(manifest.classes)

    def explain(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with tf.device(place):
            seen = to_features(tf.constant(batch), training=False)
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(seen)
                logits = to_logits(seen, training=False)
                targets = [logits[:, number] for number in range(count)]
            gradients = [np.asarray(tape.gradient(target, seen), np.float32) for target in targets]
        maps = np.asarray(seen, np.float32)
        return np.stack([grad_cam(maps, each) for each in gradients], axis=-1)

    return explain


def _last_features(graph: Any) -> Any:  # noqa: ANN401 (a Keras model; a symbolic tensor)
    for layer in reversed(graph.layers):
        shape = getattr(getattr(layer, "output", None), "shape", ())
        if isinstance(layer, _NO_FEATURES) or len(shape) != 4:
            continue
        if isinstance(layer, keras.layers.InputLayer | keras.layers.Rescaling):
            break  # nothing was learnt up to here
        return layer.output
    return None


def _before_activation(graph: Any, name: str) -> Any:  # noqa: ANN401
    """Give the logits, whose gradient does not vanish where a probability comes near 0 or 1."""
    layer = graph.get_layer(name)
    if isinstance(layer, keras.layers.Activation | keras.layers.Softmax):
        return layer.input
    # A dense layer with its activation inside: of the logarithm's gradient, only the scale differs.
    return keras.ops.log(keras.ops.maximum(layer.output, _SMALLEST))
