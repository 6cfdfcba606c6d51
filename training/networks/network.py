"""Classification networks of a backbone and a head, in backend-neutral Keras.

Input is one grey channel in [0, 1]; the graph contains the scaling that the backbone expects. The
evidence head is a 1 x 1 convolution whose mean over the map is the logit (equivalent to global average
pooling and a dense layer), so that the displayed evidence map sums up to the score exactly.

References
----------
He et al. 2016, "Deep residual learning for image recognition"; Zhou et al. 2016, "Learning deep
features for discriminative localization" (the map and the score are the same linear function).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import keras

from training.networks.backbones import BACKBONES, CAFFE_MEANS, Scaling
from training.networks.keras_types import KerasModel, Tensor

__all__ = ["BACKBONES", "CAFFE_MEANS", "EVIDENCE_HEAD", "POOLED", "Activation", "Head", "Pooling", "Scaling", "build"]

Activation = Literal["sigmoid", "softmax"]
Pooling = Literal["average", "maximum", "average4", "flatten"]

# Small initial weights: a new head starts near a logit of 0 for any backbone.
_HEAD_SPREAD: Final = 1e-3

POOLED: Final = 4
"""Rows and columns of the squares of ``average4``."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head: from features to logits.

    Parameters
    ----------
    kind
        ``evidence``: a 1 x 1 convolution whose mean is the logit, with the map as second output.
        ``dense``: pooling and dense layers, as in this project's predecessors; no map.
    pooling
        Of a dense head: ``average`` or ``maximum`` over the whole map, ``average4`` over squares
        of 4 x 4 and then flat, or ``flatten``.
    hidden
        Units of its hidden layers (ReLU).
    dropout
        Dropout rate after the hidden layers, in [0, 1).
    """

    kind: Literal["evidence", "dense"] = "evidence"
    pooling: Pooling = "average"
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0


EVIDENCE_HEAD: Final = Head()


def build(
    architecture: str = "resnet50",
    *,
    classes: int = 1,
    activation: Activation = "sigmoid",
    size: int = 224,
    weights: Path | None = None,
    head: Head = EVIDENCE_HEAD,
    scaling: Scaling = "imagenet",
) -> KerasModel:
    """Build a network.

    Parameters
    ----------
    architecture
        A name of ``BACKBONES``.
    classes
        Outputs; 1 with ``sigmoid`` is a binary model.
    activation
        ``sigmoid``: independent classes; ``softmax``: exactly one class is true.
    size
        Rows and columns of the input; at least 32.
    weights
        File of the backbone's weights; None: random. The head is always random.
    head
        Kind of head.
    scaling
        Input of the backbone: ``imagenet``, the scale of its published weights, or ``unit``, [0, 1].

    Returns
    -------
    keras.Model
        Input ``image`` (N, size, size, 1) in [0, 1]; output ``prob`` (N, classes) and, with the
        evidence head, ``evidence`` (N, h, w, classes). Layer ``logit`` has shape (N, classes); layer
        ``calibrate`` holds 1/temperature and bias after training.

    Raises
    ------
    ValueError
        If the architecture is unknown, or classes, activation and size do not fit together.
    """
    if architecture not in BACKBONES:
        raise ValueError(f"architectures are {', '.join(BACKBONES)}; got {architecture!r}")
    if classes < 1 or (activation == "softmax" and classes < 2) or size < 32:
        raise ValueError(f"classes >= 1 (softmax: >= 2) and size >= 32 are needed; got {classes} and {size}")
    image = keras.Input((size, size, 1), name="image")
    features = BACKBONES[architecture].features(image, weights, scaling)
    if head.kind == "evidence":
        evidence = _evidence(features, classes)
        logit = keras.layers.GlobalAveragePooling2D(name="logit", dtype="float32")(evidence)
    else:
        evidence = None
        logit = _dense(features, head, classes)
    # Logits and later layers stay float32 under any mixed-precision policy.
    calibrated = keras.layers.Rescaling(1.0, offset=[0.0] * classes, name="calibrate", dtype="float32")(logit)
    probability = keras.layers.Activation(activation, name="prob", dtype="float32")(calibrated)
    return keras.Model(image, [probability] if evidence is None else [probability, evidence], name=architecture)


def _evidence(features: Tensor, classes: int) -> Tensor:
    initial = keras.initializers.RandomNormal(stddev=_HEAD_SPREAD)
    layer = keras.layers.Conv2D(classes, 1, kernel_initializer=initial, name="evidence", dtype="float32")
    return layer(features)


def _dense(features: Tensor, head: Head, classes: int) -> Tensor:
    if head.pooling == "average":
        values = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    elif head.pooling == "maximum":
        values = keras.layers.GlobalMaxPooling2D(name="pool")(features)
    else:
        if head.pooling == "average4":
            features = keras.layers.AveragePooling2D(POOLED, name="pool")(features)
        values = keras.layers.Flatten(name="flat")(features)
    for number, units in enumerate(head.hidden, start=1):
        values = keras.layers.Dense(units, activation="relu", name=f"hidden{number}")(values)
    if head.dropout:
        values = keras.layers.Dropout(head.dropout, name="dropout")(values)
    return keras.layers.Dense(classes, name="logit", dtype="float32")(values)
