"""Fit a package's input gate on the run's images.

The feature space is fitted on features of training images, the distance on features of images that
the network was not trained on, the conformal thresholds on scores of validation images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cxr.package.input_gate import COMPONENT, FILE, Conformal, ConformalThresholds, FeatureSpace, GateComponent
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
"""Largest number of principal axes: further ones describe noise of a few thousand images."""

# Below this fraction of the largest variance, float32 axes are rounding error.
_SMALLEST: Final = 1e-4

Floats = NDArray[Any]

BATCH = 32


def fit_space(features: Floats) -> FeatureSpace:
    """Fit the principal axes of the training images' features.

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
        raise ValueError("all images have the same features: the network doesn't separate them")
    # At most a quarter as many axes as images, and none of zero variance.
    count = max(1, min(MOST_AXES, len(values) // 4, int((variances > _SMALLEST * variances[0]).sum())))
    residual = max(variances[count:].sum(), _SMALLEST * variances[0])
    return FeatureSpace(
        mean.astype(np.float32),
        axes[:count].astype(np.float32),
        np.sqrt(variances[:count]).astype(np.float32),
        float(np.sqrt(residual)),
    )


def fit_conformal(
    truth: Floats, probabilities: Floats, classes: tuple[str, ...], *, is_softmax: bool, alpha: float = ALPHA
) -> Conformal | None:
    """Return conformal thresholds on 1 - probability, per answer, from images that the model was not trained with.

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
        Whether exactly one class is true.
    alpha
        Fraction of each answer's cases that its sets may miss.

    Returns
    -------
    Conformal | None
        None: an answer has too few cases for this ``alpha``.
    """
    thresholds: dict[str, ConformalThresholds] = {}
    for index, name in enumerate(classes):
        scores = probabilities[:, index]
        is_true = truth == index if is_softmax else truth[:, index] == 1
        yes = _bound(1 - scores[is_true], alpha)
        no = None if is_softmax else _bound(scores[truth[:, index] == 0], alpha)
        if yes is None or (no is None and not is_softmax):
            return None
        thresholds[name] = ConformalThresholds(yes=yes, no=no)
    return Conformal(alpha=alpha, classes=thresholds)


def _bound(nonconformity: Floats, alpha: float) -> float | None:
    """Return the k-th smallest, k = ceil((n + 1)(1 - alpha)): at least 1 - alpha of new cases are below."""
    rank = math.ceil((len(nonconformity) + 1) * (1 - alpha))
    if rank > len(nonconformity):
        return None
    return float(np.clip(np.sort(np.asarray(nonconformity, np.float64))[rank - 1], 0, 1))


def gate_component(
    network: KerasModel,
    training: Floats,
    held_out: Floats,
    conformal: Conformal | None = None,
    *,
    quantile: float = QUANTILE,
) -> tuple[Mapping[str, Any], Mapping[str, bytes]]:
    """Return the gate's component and its file.

    Parameters
    ----------
    network
        The network of these features.
    training, held_out
        Features of the training images, and of images that the network was not trained with, from
        which the distance is computed; shape (images, features).
    conformal
        From ``fit_conformal``.
    quantile
        Of the held-out images' distances; an image beyond it is an outlier.

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


def make_gate(
    network: KerasModel,
    cache: Cache,
    sides: Mapping[str, Side],
    validation: Predictions,
) -> tuple[Mapping[str, Any], Mapping[str, bytes]]:
    """Return a run's input gate.

    Parameters
    ----------
    network
        The run's graph.
    cache
        The images.
    sides
        ``train``, for the feature space, and ``val``, for the distance.
    validation
        Predictions of the validation images, for the conformal thresholds. Epoch, temperature and
        threshold were chosen on them too, so that the sets are slightly too small.

    Returns
    -------
    tuple[Mapping[str, Any], Mapping[str, bytes]]
        For the manifest's ``components`` and for the package's files; both empty if there are too
        few images, or all have the same features.
    """
    training, held_out = (_features(network, cache, sides[name]) for name in ("train", "val"))
    if len(training) < 2 or not len(held_out) or not np.ptp(training, axis=0).any():
        return {}, {}
    truth, probabilities = _truth_and_probabilities(validation)
    is_softmax = validation.kind == "multiclass"
    conformal = fit_conformal(truth, probabilities, validation.classes, is_softmax=is_softmax)
    return gate_component(network, training, held_out, conformal)


def _features(network: KerasModel, cache: Cache, side: Side) -> NDArray[np.float32]:
    batches = plain_batches(cache, side.rows, side.cases.truths, batch_size=BATCH)
    return features_of(network, batches)


def _truth_and_probabilities(validation: Predictions) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return truths and probabilities for ``fit_conformal``."""
    probabilities = np.column_stack([validation.probability(name) for name in validation.classes])
    if validation.kind == "multiclass":
        return validation.frame["y"].to_numpy(dtype=np.int64), probabilities
    columns = [np.where(validation.has_truth(name), validation.truth(name), UNKNOWN) for name in validation.classes]
    return np.column_stack(columns), probabilities
