"""The input pipeline: cached images to batches, on all cores, in an order that nothing disturbs.

One of three modules that know TensorFlow (with ``devices`` and ``gradients``); ``tf.data`` feeds Keras on any
backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.inputs.augment import augment
from training.inputs.cache import Cache
from training.recipe import Augment

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]


def training_batches(
    cache: Cache,
    places: Rows,
    truths: Floats,
    weights: Floats,
    order: Rows,
    settings: Augment,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    parts: int = 1,
) -> Any:  # noqa: ANN401 (tf.data has no types)
    """Make the batches of one epoch.

    Parameters
    ----------
    cache
        The images.
    places
        For each case, its row in the cache.
    truths, weights
        (N, classes) and (N,), by case.
    order
        The epoch's cases, from ``training.inputs.targets.epoch_order``.
    settings
        Augmentation.
    seed, epoch
        What the augmentation is a function of, beside the place in the epoch.
    batch_size
        Images in a batch; the last may have fewer.
    parts
        Devices that a batch is divided among. A device that is given nothing ends the run, so a batch is
        filled up with its last image until they divide it; what is filled in weighs nothing, and the
        others so much more that the batch's mean stays what it was.

    Returns
    -------
    tf.data.Dataset
        Of (images (B, size, size, 1) in [0, 1], truths (B, classes), weights (B,)), all float32.
    """
    cv2.setNumThreads(1)  # tf.data has the threads

    # The place in the epoch, not the case, so that an image which occurs twice is changed twice.
    def image_of(step: int) -> Floats:
        image = cache.image(int(places[order[step]]))
        return augment(image, settings, seed=seed, epoch=epoch, row=int(step))

    return _batches(image_of, cache, truths[order], weights[order], batch_size, parts)


def plain_batches(cache: Cache, places: Rows, truths: Floats, *, batch_size: int, parts: int = 1) -> Any:  # noqa: ANN401
    """Make batches of images as they are served, in the order of the cases; weights are 1.

    With several ``parts`` (as of ``training_batches``), which ``batch_size`` is a multiple of, the last
    batch may end in images that were filled in.
    """

    def image_of(step: int) -> Floats:
        return cache.image(int(places[step]))

    return _batches(image_of, cache, truths, np.ones(len(truths), np.float32), batch_size, parts)


def _batches(
    image_of: Callable[[int], Floats], cache: Cache, truths: Floats, weights: Floats, batch_size: int, parts: int
) -> Any:  # noqa: ANN401
    size = cache.recipe.size

    def load(steps: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        filled = np.append(steps, np.repeat(steps[-1:], -len(steps) % parts))
        images = np.stack([image_of(int(step)) for step in filled])
        weight = weights[filled] * np.float32(len(filled) / len(steps))
        weight[len(steps) :] = 0
        return images, truths[filled], weight

    def map_batch(steps: Any) -> Any:  # noqa: ANN401
        images, truth, weight = tf.numpy_function(load, [steps], (tf.float32, tf.float32, tf.float32), stateful=False)
        return (
            tf.ensure_shape(images, (None, size, size, 1)),
            tf.ensure_shape(truth, (None, truths.shape[1])),
            tf.ensure_shape(weight, (None,)),
        )

    options = tf.data.Options()
    options.deterministic = True
    # One process feeds all its GPUs: a batch is divided among them.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    steps = tf.data.Dataset.range(len(truths)).batch(batch_size)
    batches = steps.map(map_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(2).with_options(options)
