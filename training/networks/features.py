"""Features of an image: the means of the last feature maps that the head reads."""

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
    """Return the name of the layer whose maps the head reads.

    Parameters
    ----------
    network
        From ``training.networks.network.build``, or an ensemble, whose layer ``features``
        concatenates the maps of the members.

    Raises
    ------
    RunError
        If the network has none of the known heads.
    """
    names = {layer.name for layer in network.layers}
    if FEATURES in names:
        return FEATURES
    head = next((name for name in ("evidence", "pool", "flat") if name in names), None)
    if head is None:
        raise RunError("The network has no layer of features: an earlier version wrote it; train the run again.")
    input_layer: str = network.get_layer(head).input._keras_history.operation.name
    return input_layer


def features_of(network: KerasModel, batches: Any) -> NDArray[np.float32]:  # noqa: ANN401
    """Return the features of images: the mean of each of the trunk's last maps.

    Parameters
    ----------
    network
        From ``training.networks.network.build``.
    batches
        Input of ``keras.Model.predict``: images (N, size, size, 1) in [0, 1].

    Returns
    -------
    NDArray[np.float32]
        Shape (images, features).
    """
    maps = network.get_layer(feature_layer(network)).output
    pooled = keras.layers.GlobalAveragePooling2D(dtype="float32")(maps)
    features = keras.Model(network.input, pooled).predict(batches, verbose=0)
    return np.asarray(features, np.float32)
