"""The U-Net that segments lungs, in backend-neutral Keras, of layers that serving accepts.

References
----------
Ronneberger et al. 2015, "U-Net: convolutional networks for biomedical image segmentation"; Ioffe and
Szegedy 2015 for the normalisation between its convolutions.
"""

from __future__ import annotations

from typing import Final

import keras

from training.networks.keras_types import KerasModel, Tensor

LEVELS: Final = 4
"""Resolution levels, each half of the one before: the size is divisible by 2 ** (LEVELS - 1)."""


def build_unet(size: int, width: int = 16) -> KerasModel:
    """Build the network with random weights.

    Parameters
    ----------
    size
        Rows and columns of the input, divisible by 8.
    width
        Feature maps of the first level; each next level has twice as many. 16: 489,121 parameters.

    Returns
    -------
    keras.Model
        From grey (N, size, size, 1) in [0, 1] to probabilities of lung (N, size, size, 1).

    Raises
    ------
    ValueError
        If the size is below 32 or not divisible by 8.
    """
    if size % 2 ** (LEVELS - 1) or size < 32:
        raise ValueError(f"a U-Net's size is at least 32 and divisible by {2 ** (LEVELS - 1)}; got {size}")
    image = keras.Input((size, size, 1), name="image")
    # Centre grey at 0, so that inputs have both signs.
    features = keras.layers.Rescaling(2.0, offset=-1.0, name="centre")(image)
    skips: list[Tensor] = []
    for level in range(LEVELS - 1):
        features = _two_convolutions(features, width * 2**level, f"down{level}")
        skips.append(features)
        features = keras.layers.MaxPooling2D(name=f"pool{level}")(features)
    features = _two_convolutions(features, width * 2 ** (LEVELS - 1), "bottom")
    for level in reversed(range(LEVELS - 1)):
        wider = keras.layers.UpSampling2D(interpolation="bilinear", name=f"wider{level}")(features)
        joined = keras.layers.Concatenate(name=f"joined{level}")([wider, skips[level]])
        features = _two_convolutions(joined, width * 2**level, f"up{level}")
    probability = keras.layers.Conv2D(1, 1, activation="sigmoid", name="lung", dtype="float32")(features)
    return keras.Model(image, probability, name="lungs")


def _two_convolutions(features: Tensor, maps: int, name: str) -> Tensor:
    for number in (1, 2):
        convolution = keras.layers.Conv2D(maps, 3, padding="same", use_bias=False, name=f"{name}_conv{number}")
        features = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm{number}")(convolution(features))
        features = keras.layers.Activation("relu", name=f"{name}_relu{number}")(features)
    return features
