"""Grad-CAM, for graphs without an evidence map of their own; labelled as an approximation wherever it is shown.

Loads TensorFlow, as ``inference.model.tensorflow_runtime`` does: backend-neutral Keras has no gradients.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cxr.package import PackageManifest
from cxr.package.grad_cam import grad_cam
from inference.model.batches import Explainer
from inference.model.keras_types import KerasModel, Tensor
from inference.model.tensorflow_runtime import load_graph, tensorflow_device

# Lower bound of a probability before its logarithm: close to the spacing of float32 values below 1.
_SMALLEST = 1e-7

# Layers behind the last feature map: they pool, crop, reshape or drop features.
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
    """Load the graph that computes Grad-CAM maps.

    Parameters
    ----------
    path
        The ``.keras`` file, checked before by ``inference.model.graph_file``.
    manifest
        Manifest of the package.
    device
        ``cpu`` or ``gpu:N``.

    Returns
    -------
    Explainer | None
        Function from images (N, size, size, 1) in [0, 1] to maps (N, height, width, classes), at least 0 and
        comparable within one map only. None: the graph has no feature map.

    Raises
    ------
    IncompatiblePackage
        If Keras does not load the file.
    """
    tf_device = tensorflow_device(device)
    with tf.device(tf_device):
        graph = load_graph(path)
        feature_layer = _last_features(graph)
        if feature_layer is None:
            return None
        to_features = keras.Model(graph.inputs, feature_layer)
        to_logits = keras.Model(feature_layer, _before_activation(graph, manifest.outputs.probabilities))
    count = len(manifest.classes)

    def explain(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with tf.device(tf_device):
            features = to_features(tf.constant(batch), training=False)
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(features)
                logits = to_logits(features, training=False)
                targets = [logits[:, number] for number in range(count)]
            gradients = [np.asarray(tape.gradient(target, features), np.float32) for target in targets]
        maps = np.asarray(features, np.float32)
        return np.stack([grad_cam(maps, each) for each in gradients], axis=-1)

    return explain


def _last_features(graph: KerasModel) -> Tensor | None:
    for layer in reversed(graph.layers):
        shape = getattr(getattr(layer, "output", None), "shape", ())
        if isinstance(layer, _NO_FEATURES) or len(shape) != 4:
            continue
        if isinstance(layer, keras.layers.InputLayer | keras.layers.Rescaling):
            break  # no trained layer before this one
        return layer.output
    return None


def _before_activation(graph: KerasModel, name: str) -> Tensor:
    """Return the logits: their gradient does not vanish where a probability is close to 0 or 1."""
    layer = graph.get_layer(name)
    if isinstance(layer, keras.layers.Activation | keras.layers.Softmax):
        return layer.input
    # A dense layer with a fused activation: the gradient of the log-probability differs from it in scale only.
    return keras.ops.log(keras.ops.maximum(layer.output, _SMALLEST))
