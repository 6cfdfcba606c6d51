"""Fit a package's input gate on the run's images.

The distance is fitted on features of the training images and of images that the network was not
trained on, the conformal sets on scores of the validation images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cxr.package.input_gate import COMPONENT, FILE, Conformal, FeatureSpace, GateComponent, Oddness
from training.evaluation import Predictions
from training.inputs.batches import plain_batches
from training.inputs.cache import Cache
from training.inputs.targets import UNKNOWN
from training.networks import feature_layer, features_of
from training.networks.keras_types import KerasModel
from training.runs.loop import Side

QUANTILE: Final = 0.995
ALPHA: Final = 0.10
MOST_AXES: Final = 64
"""More axes than this describe the noise of a few thousand images."""

# Below this share of the largest variance, float32 axes no longer tell direction from rounding.
_SMALLEST: Final = 1e-4

Floats = NDArray[Any]

BATCH = 32


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
    network: KerasModel,
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


def set_gate(
    network: KerasModel,
    cache: Cache,
    sides: Mapping[str, Side],
    validation: Predictions,
) -> tuple[Mapping[str, Any], Mapping[str, bytes]]:
    """Make a run's input gate.

    Parameters
    ----------
    network
        The run's graph.
    cache
        The images.
    sides
        ``train``, whose features are described, and ``val``, which the distance is set on.
    validation
        Predictions of the validation images, which the conformal sets are made of. Epoch, temperature
        and threshold were chosen on them too, so that the sets are a little too small.

    Returns
    -------
    tuple[Mapping[str, Any], Mapping[str, bytes]]
        For the manifest's ``components`` and for the package's files; both empty where the images are
        too few, or the network gives the same features for all of them.
    """
    trained, held_out = (_features(network, cache, sides[name]) for name in ("train", "val"))
    if len(trained) < 2 or not len(held_out) or not np.ptp(trained, axis=0).any():
        return {}, {}
    truth, chances = _tables(validation)
    is_softmax = validation.kind == "multiclass"
    conformal = fit_conformal(truth, chances, validation.classes, is_softmax=is_softmax)
    return gate_component(network, trained, held_out, conformal)


def _features(network: KerasModel, cache: Cache, side: Side) -> NDArray[np.float32]:
    batches = plain_batches(cache, side.rows, side.cases.truths, batch_size=BATCH)
    return features_of(network, batches)


def _tables(validation: Predictions) -> tuple[NDArray[Any], NDArray[Any]]:
    """Give truths and probabilities as ``training.packaging.input_gate.fit_conformal`` takes them."""
    chances = np.column_stack([validation.probability(name) for name in validation.classes])
    if validation.kind == "multiclass":
        return validation.frame["y"].to_numpy(dtype=np.int64), chances
    columns = [np.where(validation.known(name), validation.truth(name), UNKNOWN) for name in validation.classes]
    return np.column_stack(columns), chances
