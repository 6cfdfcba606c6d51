"""Backbones: from a grey image to feature maps.

The input is one grey channel in [0, 1]; the graph contains the scaling that the weights expect.

References
----------
He et al. 2016, "Deep residual learning" (ResNet18, ResNet50); Simonyan and Zisserman 2015 (VGG16);
Huang et al. 2017 (DenseNet-169).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import keras

from training.networks.keras_types import Tensor

Scaling = Literal["imagenet", "unit"]
CAFFE_MEANS: Final = (103.939, 116.779, 123.68)
"""Mean blue, green and red of ImageNet, subtracted for the published weights of ResNet50 and VGG16."""

TORCH_MEANS: Final = (0.485, 0.456, 0.406)
TORCH_DEVIATIONS: Final = (0.229, 0.224, 0.225)
"""Means and standard deviations of red, green and blue in [0, 1], as in DenseNet and torchvision."""

_BATCH_NORM: Final = {"epsilon": 1.001e-5, "momentum": 0.99}


@dataclass(frozen=True, slots=True)
class Backbone:
    """A backbone without its classification head.

    Parameters
    ----------
    features
        Function from (image in [0, 1], weights file or None, scaling) to feature maps.
    stages
        Prefix of the layer names of each group, from the input on; ``training.runs.freezing`` counts from
        the end.
    map_side
        Function from the rows of an image to those of its feature maps.
    has_batch_norm
        Whether it has BatchNorm layers.
    """

    features: Callable[[Tensor, Path | None, Scaling], Tensor]
    stages: tuple[str, ...]
    map_side: Callable[[int], int]
    has_batch_norm: bool = True


def _colour(image: Tensor) -> Tensor:
    return keras.layers.Concatenate(name="grey_to_colour")([image, image, image])


def _caffe(image: Tensor, scaling: Scaling) -> Tensor:
    colour = _colour(image)
    if scaling == "unit":
        return colour
    return keras.layers.Rescaling(255.0, offset=[-mean for mean in CAFFE_MEANS], name="imagenet_scale")(colour)


def _torch(image: Tensor, scaling: Scaling) -> Tensor:
    colour = _colour(image)
    if scaling == "unit":
        return colour
    scale = [1 / deviation for deviation in TORCH_DEVIATIONS]
    offset = [-mean / deviation for mean, deviation in zip(TORCH_MEANS, TORCH_DEVIATIONS, strict=True)]
    return keras.layers.Rescaling(scale, offset=offset, name="imagenet_scale")(colour)


def _name(weights: Path | None) -> str | None:
    return None if weights is None else str(weights)


def resnet50_features(image: Tensor, weights: Path | None, scaling: Scaling = "imagenet") -> Tensor:
    """Build ResNet50 without its head: maps of 1/32 of the size, 2048 channels.

    Parameters
    ----------
    image
        Shape (N, size, size, 1), in [0, 1].
    weights
        A ``.weights.h5`` or legacy ``.h5`` file without the head; None: random.
    scaling
        ``imagenet``: as the published weights expect; ``unit``: [0, 1] unchanged, as some published models.
    """
    return keras.applications.ResNet50(
        include_top=False, weights=_name(weights), input_tensor=_caffe(image, scaling)
    ).output


def vgg16_features(image: Tensor, weights: Path | None, scaling: Scaling = "imagenet") -> Tensor:
    """Build VGG16 without its head: 1/32 of the size, 512 channels. Parameters as in ``resnet50_features``."""
    return keras.applications.VGG16(
        include_top=False, weights=_name(weights), input_tensor=_caffe(image, scaling)
    ).output


def densenet169_features(image: Tensor, weights: Path | None, scaling: Scaling = "imagenet") -> Tensor:
    """Build DenseNet-169 without its head: 1/32 of the size, 1664 channels. Parameters as in ``resnet50_features``."""
    return keras.applications.DenseNet169(
        include_top=False, weights=_name(weights), input_tensor=_torch(image, scaling)
    ).output


def resnet18_features(image: Tensor, weights: Path | None, scaling: Scaling = "imagenet") -> Tensor:
    """Build ResNet18, which Keras lacks: 1/32 of the size, 512 channels. Parameters as in ``resnet50_features``."""
    scaled = _torch(image, scaling)
    features = keras.layers.ZeroPadding2D(3, name="conv1_pad")(scaled)
    features = keras.layers.Conv2D(64, 7, strides=2, use_bias=False, name="conv1_conv")(features)
    features = _normalised(features, "conv1")
    features = keras.layers.ReLU(name="conv1_relu")(features)
    features = keras.layers.ZeroPadding2D(1, name="pool1_pad")(features)
    features = keras.layers.MaxPooling2D(3, strides=2, name="pool1_pool")(features)
    for stage, channels in enumerate((64, 128, 256, 512), start=2):
        for block in (1, 2):
            strides = 2 if block == 1 and stage > 2 else 1
            features = _basic_block(features, channels, strides, f"conv{stage}_block{block}")
    if weights is not None:
        keras.Model(image, features).load_weights(weights)
    return features


def _basic_block(features: Tensor, channels: int, strides: int, name: str) -> Tensor:
    shortcut = features
    if strides != 1 or features.shape[-1] != channels:
        shortcut = keras.layers.Conv2D(channels, 1, strides=strides, use_bias=False, name=f"{name}_0_conv")(features)
        shortcut = _normalised(shortcut, f"{name}_0")
    for step, step_strides in ((1, strides), (2, 1)):
        features = keras.layers.ZeroPadding2D(1, name=f"{name}_{step}_pad")(features)
        features = keras.layers.Conv2D(
            channels,
            3,
            strides=step_strides,
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"{name}_{step}_conv",
        )(features)
        features = _normalised(features, f"{name}_{step}")
        if step == 1:
            features = keras.layers.ReLU(name=f"{name}_1_relu")(features)
    added = keras.layers.Add(name=f"{name}_add")([shortcut, features])
    return keras.layers.ReLU(name=f"{name}_out")(added)


def _normalised(features: Tensor, name: str) -> Tensor:
    return keras.layers.BatchNormalization(**_BATCH_NORM, name=f"{name}_bn")(features)


def tiny_features(image: Tensor, weights: Path | None, scaling: Scaling = "imagenet") -> Tensor:
    """Build a CNN of about 6000 weights, for tests and tutorials: 1/16 of the size, 32 channels.

    Raises
    ------
    ValueError
        If weights are given: none are published.
    """
    if weights is not None:
        raise ValueError("the tiny network has no published weights: leave them out")
    features = image
    if scaling == "imagenet":
        features = keras.layers.Rescaling(2.0, offset=-1.0, name="centre")(image)
    for stage, channels in enumerate((8, 16, 32), start=1):
        strides = 4 if stage == 1 else 2
        convolution = keras.layers.Conv2D(channels, 3, strides=strides, padding="same", name=f"conv{stage}")
        features = keras.layers.ReLU(name=f"relu{stage}")(convolution(features))
    return features


_CONVOLUTIONS: Final = ("conv1", "conv2", "conv3", "conv4", "conv5")

BACKBONES: Final[Mapping[str, Backbone]] = MappingProxyType(
    {
        "resnet50": Backbone(resnet50_features, _CONVOLUTIONS, lambda side: -(-side // 32)),
        "resnet18": Backbone(resnet18_features, _CONVOLUTIONS, lambda side: -(-side // 32)),
        "vgg16": Backbone(
            vgg16_features,
            ("block1", "block2", "block3", "block4", "block5"),
            lambda side: side // 32,
            has_batch_norm=False,
        ),
        "densenet169": Backbone(densenet169_features, _CONVOLUTIONS, lambda side: -(-side // 4) // 8),
        "tiny": Backbone(tiny_features, ("conv1", "conv2", "conv3"), lambda side: -(-side // 16), has_batch_norm=False),
    }
)
"""Architecture name to backbone."""
