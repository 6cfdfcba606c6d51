"""Grad-CAM maps for networks without an evidence head.

It uses TensorFlow: backend-neutral Keras has no gradients.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cxr.package.grad_cam import grad_cam
from training.networks.features import feature_layer
from training.networks.keras_types import KerasModel


def grad_cam_maps(network: KerasModel, images: NDArray[np.float32], output: int) -> NDArray[np.float32]:
    """Compute the Grad-CAM map of one class for each image.

    Parameters
    ----------
    network
        From ``training.networks.network.build``, or an ensemble.
    images
        Shape (N, size, size, 1), in [0, 1].
    output
        Index of the class.

    Returns
    -------
    NDArray[np.float32]
        Shape (N, height, width), at least 0, in the resolution of the last feature maps; values of
        different maps are not comparable.

    Raises
    ------
    RunError
        If the network has no layer of features.
    """
    features = network.get_layer(feature_layer(network)).output
    maps = keras.Model(network.input, features)(images, training=False)
    to_logits = keras.Model(features, network.get_layer("logit").output)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        logit = to_logits(maps, training=False)[:, output]
    gradients = tape.gradient(logit, maps)
    return grad_cam(np.asarray(maps, np.float32), np.asarray(gradients, np.float32))
