"""The networks, in backend-neutral Keras: no TensorFlow here.

Input is one grey channel in [0, 1], whatever the backbone wants: its scaling is in the graph. Heads
are a 1 x 1 convolution whose mean over the map is the logit (equal to pooling and then a dense
layer, with the weights moved), so that the map that is shown is exactly what the score is made of.

References
----------
He et al. 2016, "Deep residual learning for image recognition"; Zhou et al. 2016, "Learning deep
features for discriminative localization" (the map and the score are the same linear function).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import keras

Activation = Literal["sigmoid", "softmax"]

CAFFE_MEANS: Final = (103.939, 116.779, 123.68)
"""Mean blue, green and red of ImageNet: what ResNet50's published weights subtract."""

# A fresh head starts near a logit of 0, whatever the backbone's features sum up to.
_HEAD_SPREAD: Final = 1e-3

Tensor = Any
Backbone = Callable[[Tensor, Path | None], Tensor]


def resnet50_features(image: Tensor, weights: Path | None) -> Tensor:
    """ResNet50 without its top, ImageNet's scaling included: 1/32 of the size, 2048 channels.

    Parameters
    ----------
    image
        Shape (N, size, size, 1), in [0, 1].
    weights
        A ``.weights.h5`` or legacy ``.h5`` file without top; None: random.
    """
    colour = keras.layers.Concatenate(name="grey_to_colour")([image, image, image])
    scaled = keras.layers.Rescaling(255.0, offset=[-mean for mean in CAFFE_MEANS], name="imagenet_scale")(colour)
    path = None if weights is None else str(weights)
    return keras.applications.ResNet50(include_top=False, weights=path, input_tensor=scaled).output


def tiny_features(image: Tensor, weights: Path | None) -> Tensor:
    """A CNN of about 6000 weights, for tests and tutorials: 1/16 of the size, 32 channels.

    Raises
    ------
    ValueError
        If weights are given: nobody publishes any.
    """
    if weights is not None:
        raise ValueError("the tiny network has no published weights: leave them out")
    features = keras.layers.Rescaling(2.0, offset=-1.0, name="centre")(image)
    for stage, channels in enumerate((8, 16, 32), start=1):
        strides = 4 if stage == 1 else 2
        convolution = keras.layers.Conv2D(channels, 3, strides=strides, padding="same", name=f"conv{stage}")
        features = keras.layers.ReLU(name=f"relu{stage}")(convolution(features))
    return features


BACKBONES: Final[Mapping[str, Backbone]] = MappingProxyType({"resnet50": resnet50_features, "tiny": tiny_features})
"""Architectures by name."""


def build(
    architecture: str = "resnet50",
    *,
    classes: int = 1,
    activation: Activation = "sigmoid",
    size: int = 224,
    weights: Path | None = None,
) -> Any:  # noqa: ANN401 (Keras has no types)
    """Build a network.

    Parameters
    ----------
    architecture
        A name of ``BACKBONES``.
    classes
        Outputs; 1 with ``sigmoid`` is a binary model.
    activation
        ``sigmoid``: each class by itself; ``softmax``: exactly one class is true.
    size
        Rows and columns of the input; at least 32.
    weights
        File of the backbone's weights; None: random. The head is always random.

    Returns
    -------
    keras.Model
        Input ``image`` (N, size, size, 1) in [0, 1]; outputs ``prob`` (N, classes) and ``evidence``
        (N, h, w, classes). Layer ``calibrate`` takes 1/temperature and bias after training.

    Raises
    ------
    ValueError
        If the architecture is unknown or the numbers do not fit together.
    """
    if architecture not in BACKBONES:
        raise ValueError(f"architectures are {', '.join(BACKBONES)}; got {architecture!r}")
    if classes < 1 or (activation == "softmax" and classes < 2) or size < 32:
        raise ValueError(f"classes >= 1 (softmax: >= 2) and size >= 32 are needed; got {classes} and {size}")
    image = keras.Input((size, size, 1), name="image")
    features = BACKBONES[architecture](image, weights)
    head = keras.layers.Conv2D(
        classes, 1, kernel_initializer=keras.initializers.RandomNormal(stddev=_HEAD_SPREAD), name="evidence"
    )
    evidence = head(features)
    logit = keras.layers.GlobalAveragePooling2D(name="logit")(evidence)
    calibrated = keras.layers.Rescaling(1.0, offset=[0.0] * classes, name="calibrate")(logit)
    probability = keras.layers.Activation(activation, name="prob")(calibrated)
    return keras.Model(image, [probability, evidence], name=architecture)
