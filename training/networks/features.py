"""The features of an image: the output of the network's global pooling layer."""

from __future__ import annotations

from typing import Any, Final

import keras
import numpy as np
from numpy.typing import NDArray

from cxr.errors import RunError
from training.networks.keras_types import KerasModel

FEATURES: Final = "features"
"""Name of the layer that holds an ensemble's features."""


def feature_layer(network: KerasModel) -> str:
    """Return the name of the layer whose maps are the features: the one that the head reads.

    Parameters
    ----------
    network
        From ``training.networks.network.build``, or an ensemble: its layer ``features`` holds the members' maps,
        one member after the other.

    Raises
    ------
    RunError
        If the network is neither.
    """
    names = {layer.name for layer in network.layers}
    if FEATURES in names:
        return FEATURES
    head = next((name for name in ("evidence", "pool", "flat") if name in names), None)
    if head is None:
        raise RunError("The network has no layer of features: it is of an earlier version; make the run again.")
    feeding: str = network.get_layer(head).input._keras_history.operation.name
    return feeding


def features_of(network: KerasModel, batches: Any) -> NDArray[np.float32]:  # noqa: ANN401
    """Return the features of images: the mean of each of the trunk's last maps.

    Parameters
    ----------
    network
        From ``training.networks.network.build``.
    batches
        What ``keras.Model.predict`` takes: images (N, size, size, 1) in [0, 1].

    Returns
    -------
    NDArray[np.float32]
        Shape (images, features).
    """
    maps = network.get_layer(feature_layer(network)).output
    pooled = keras.layers.GlobalAveragePooling2D(dtype="float32")(maps)
    found: NDArray[np.float32] = np.asarray(keras.Model(network.input, pooled).predict(batches, verbose=0), np.float32)
    return found
