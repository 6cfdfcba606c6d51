"""Grad-CAM maps of a run's network, for heads without an evidence map; knows TensorFlow: Keras has no gradients."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cxr.package.grad_cam import grad_cam
from training.networks.features import feature_layer
from training.networks.keras_types import KerasModel


def grad_cam_maps(network: KerasModel, images: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    """Approximate where a network sees a class.

    Parameters
    ----------
    network
        From ``training.networks.network.build``, or an ensemble of such.
    images
        Shape (N, size, size, 1), in [0, 1].
    place
        Number of the class.

    Returns
    -------
    NDArray[np.float32]
        Shape (N, height, width), at least 0: of the last maps that the head reads, and comparable
        within one map only.

    Raises
    ------
    RunError
        If the network has no layer of features.
    """
    features = network.get_layer(feature_layer(network)).output
    seen = keras.Model(network.input, features)(images, training=False)
    to_logits = keras.Model(features, network.get_layer("logit").output)
    with tf.GradientTape() as tape:
        tape.watch(seen)
        logit = to_logits(seen, training=False)[:, place]
    gradients = tape.gradient(logit, seen)
    return grad_cam(np.asarray(seen, np.float32), np.asarray(gradients, np.float32))
