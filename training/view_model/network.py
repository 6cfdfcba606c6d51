"""The view model's network: small, and fitted in half a minute on one core.

64 x 64 pixels, five convolutions with BatchNorm, 0.2 million weights. An epoch has a fixed number of
draws, so that the time does not grow with the manifest; the caller sets their probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import keras
import numpy as np
from numpy.typing import NDArray

from cxr.package.view_model import CLASSES
from cxr.pixels.recipe import PixelRecipe
from training.inputs.augment import augment, generator
from training.networks.keras_types import KerasModel
from training.recipe import Augment

Floats = NDArray[np.float32]
Grey = NDArray[np.float32]

SIZE: Final = 64
RECIPE: Final = PixelRecipe(size=SIZE, quantised=True, colour="luminance")
"""Preparation of pixels for this network."""

CHANNELS: Final = (16, 32, 64, 96, 128)
AUGMENT: Final = Augment(
    rotation_degrees=12, shift=0.08, zoom=0.2, gamma=(0.6, 1.6), noise=0.04, cut_out=0.25, flip_horizontal=True
)
"""Stronger than for a finding: a mirrored film has the same view."""

_NEGATIVES: Final = 0.1  # fraction of images that are inverted
_SMOOTHING: Final = 0.05


@dataclass(frozen=True, slots=True)
class Effort:
    """Length of a fit.

    Parameters
    ----------
    epochs
        Number of epochs.
    draws
        Images per epoch.
    batch_size
        Images per step.
    learning_rate
        Of Adam at the start; it falls to 0 with a cosine.
    """

    epochs: int = 60
    draws: int = 576
    batch_size: int = 32
    learning_rate: float = 3e-3


def build() -> KerasModel:
    """Build the network: input ``image`` (N, 64, 64, 1) in [0, 1]; output ``prob`` (N, 3)."""
    image = keras.Input((SIZE, SIZE, 1), name="image")
    features = keras.layers.Rescaling(2.0, offset=-1.0, name="centre")(image)
    for stage, channels in enumerate(CHANNELS, start=1):
        convolution = keras.layers.Conv2D(
            channels, 3, strides=2, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"conv{stage}"
        )
        features = keras.layers.BatchNormalization(momentum=0.9, name=f"bn{stage}")(convolution(features))
        features = keras.layers.ReLU(name=f"relu{stage}")(features)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    logit = keras.layers.Dense(len(CLASSES), name="logit", dtype="float32")(pooled)
    return keras.Model(image, keras.layers.Activation("softmax", name="prob", dtype="float32")(logit), name="view")


def fit(
    image_of: Callable[[int], Grey],
    truths: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    *,
    effort: Effort,
    seed: int,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> KerasModel:
    """Fit a network from random weights.

    Parameters
    ----------
    image_of
        From an index to an image, float32 (64, 64, 1) in [0, 1].
    truths
        (N,): index of each image's class in ``CLASSES``.
    probabilities
        (N,): of each image in a draw; they add up to 1.
    effort
        Epochs, draws, batch size, learning rate.
    seed
        Of weights, draws and augmentation; it determines the network on one kind of machine.
    watch
        Called with the number of epochs done, and of all.
    """
    keras.utils.set_random_seed(seed)
    network = build()
    steps = effort.epochs * -(-effort.draws // effort.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(effort.learning_rate, steps)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=_SMOOTHING)
    network.compile(keras.optimizers.Adam(rate), loss)
    targets = np.eye(len(CLASSES), dtype=np.float32)[truths]
    for epoch in range(effort.epochs):
        order = generator(seed, epoch, 0).choice(len(truths), effort.draws, p=probabilities)
        batch = np.stack([_augmented(image_of(int(case)), seed, epoch, row) for row, case in enumerate(order)])
        for start in range(0, effort.draws, effort.batch_size):
            step = slice(start, start + effort.batch_size)
            network.train_on_batch(batch[step], targets[order[step]])
        watch(epoch + 1, effort.epochs)
    plain = build()  # without the optimiser's state, which the file would hold too
    plain.set_weights(network.get_weights())
    return plain


def predict(network: KerasModel, images: Floats) -> Floats:
    """Return the probabilities of images, shape (N, 3)."""
    if not len(images):
        return np.empty((0, len(CLASSES)), np.float32)
    parts = [network.predict_on_batch(images[start : start + 64]) for start in range(0, len(images), 64)]
    return np.concatenate(parts).astype(np.float32)


def _augmented(image: Grey, seed: int, epoch: int, row: int) -> Grey:
    augmented = augment(image, AUGMENT, seed=seed, epoch=epoch, row=row)
    is_negative = generator(seed, epoch, row + (1 << 32)).random() < _NEGATIVES
    return 1 - augmented if is_negative else augmented
