"""Set a package's input gate: from features and scores of images to the component that serving applies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import keras
import numpy as np
from numpy.typing import NDArray

from cxr.errors import RunError
from cxr.input_gate import COMPONENT, FILE, Conformal, FeatureSpace, GateComponent, Oddness

QUANTILE: Final = 0.995
ALPHA: Final = 0.10
MOST_AXES: Final = 64
"""More axes than this describe the noise of a few thousand images."""

FEATURES: Final = "features"
"""Name of the layer that holds an ensemble's features."""

# Below this share of the largest variance, float32 axes no longer tell direction from rounding.
_SMALLEST: Final = 1e-4

Floats = NDArray[Any]


def feature_layer(network: Any) -> str:  # noqa: ANN401 (a Keras model)
    """Return the name of the layer whose maps are the features: the one that the head reads.

    Parameters
    ----------
    network
        From ``training.network.build``, or an ensemble: its layer ``features`` holds the members' maps,
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


def features_of(network: Any, batches: Any) -> NDArray[np.float32]:  # noqa: ANN401
    """Return the features of images: the mean of each of the trunk's last maps.

    Parameters
    ----------
    network
        From ``training.network.build``.
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


def fit_space(features: Floats) -> FeatureSpace:
    """Find the principal axes of the training images' features.

    Parameters
    ----------
    features
        Shape (images, features); two images at least, and not all the same.

    Raises
    ------
    ValueError
        If there are too few images or they do not differ.
    """
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"features of two images at least are needed; got shape {values.shape}")
    mean = values.mean(axis=0)
    _, lengths, axes = np.linalg.svd(values - mean, full_matrices=False)
    variances = lengths**2 / (len(values) - 1)
    if not variances[0] > 0:
        raise ValueError("all images have the same features: the network gives nothing to tell them apart by")
    # At most a quarter as many axes as images, and none that holds nothing.
    kept = max(1, min(MOST_AXES, len(values) // 4, int((variances > _SMALLEST * variances[0]).sum())))
    left = max(variances[kept:].sum(), _SMALLEST * variances[0])
    return FeatureSpace(
        mean.astype(np.float32),
        axes[:kept].astype(np.float32),
        np.sqrt(variances[:kept]).astype(np.float32),
        float(np.sqrt(left)),
    )


def fit_conformal(
    truth: Floats, probabilities: Floats, classes: tuple[str, ...], *, is_softmax: bool, alpha: float = ALPHA
) -> Conformal | None:
    """Find how odd a score may be, from images that the model was not trained with.

    Parameters
    ----------
    truth
        Softmax: number of the true class, shape (images,). Else 1, 0 or negative (not known), shape
        (images, classes).
    probabilities
        Shape (images, classes).
    classes
        Names, in the order of the outputs.
    is_softmax
        Whether exactly one is true.
    alpha
        Of each answer's cases, the share that its sets may miss.

    Returns
    -------
    Conformal | None
        None: an answer has too few cases for this ``alpha``.
    """
    odd: dict[str, Oddness] = {}
    for place, name in enumerate(classes):
        given = probabilities[:, place]
        is_true = truth == place if is_softmax else truth[:, place] == 1
        yes = _bound(1 - given[is_true], alpha)
        no = None if is_softmax else _bound(given[truth[:, place] == 0], alpha)
        if yes is None or (no is None and not is_softmax):
            return None
        odd[name] = Oddness(yes=yes, no=no)
    return Conformal(alpha=alpha, classes=odd)


def _bound(oddness: Floats, alpha: float) -> float | None:
    """Return the k-th smallest, k = ceil((n + 1)(1 - alpha)): at least 1 - alpha of new cases are below."""
    rank = math.ceil((len(oddness) + 1) * (1 - alpha))
    if rank > len(oddness):
        return None
    return float(np.clip(np.sort(np.asarray(oddness, np.float64))[rank - 1], 0, 1))


def gate_component(
    network: Any,  # noqa: ANN401
    training: Floats,
    held_out: Floats,
    conformal: Conformal | None = None,
    *,
    quantile: float = QUANTILE,
) -> tuple[Mapping[str, Any], Mapping[str, bytes]]:
    """Make the component and its file.

    Parameters
    ----------
    network
        Whose features these are.
    training, held_out
        Features of the training images, and of images that the network was not trained with, which
        the distance is set on; shape (images, features).
    conformal
        From ``fit_conformal``.
    quantile
        Of the held-out images' distances: what lies beyond is an outlier.

    Returns
    -------
    tuple[Mapping[str, Any], Mapping[str, bytes]]
        For the manifest's ``components`` and for the package's files.
    """
    space = fit_space(training)
    distance = float(np.quantile(space.distances(np.asarray(held_out, np.float32)), quantile))
    component = GateComponent(
        layer=feature_layer(network),
        distance=max(distance, 1e-6),
        quantile=quantile,
        images=len(held_out),
        conformal=conformal,
    )
    return {COMPONENT: component.model_dump(mode="json")}, {FILE: space.to_bytes()}
