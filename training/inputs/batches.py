"""The input pipeline: batches of cached images, made on all cores, in a deterministic order.

It uses ``tf.data``, which feeds Keras on any backend.
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
    rows: Rows,
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
    """Create the batches of one training epoch.

    Parameters
    ----------
    cache
        The images.
    rows
        (N,): the cache row of each case.
    truths, weights
        (N, classes) and (N,), by case.
    order
        Cases of the epoch, from ``training.inputs.epoch_order.epoch_order``.
    settings
        Augmentation.
    seed, epoch
        Of the augmentation, with the position in the epoch.
    batch_size
        Images in a batch; the last may have fewer.
    parts
        Devices that a batch is divided among. A device without an image would end the run, so the last
        batch is padded with its last image to a multiple of ``parts``; padding has weight 0, and the other
        weights are scaled so that the mean of the batch is unchanged.

    Returns
    -------
    tf.data.Dataset
        Of (images (B, size, size, 1) in [0, 1], truths (B, classes), weights (B,)), all float32.
    """
    cv2.setNumThreads(1)  # tf.data runs the threads

    # The position in the epoch, not the case: an image that occurs twice is augmented in two ways.
    def image_of(step: int) -> Floats:
        image = cache.image(int(rows[order[step]]))
        return augment(image, settings, seed=seed, epoch=epoch, row=int(step))

    return _batches(image_of, cache, truths[order], weights[order], batch_size, parts)


def plain_batches(cache: Cache, rows: Rows, truths: Floats, *, batch_size: int, parts: int = 1) -> Any:  # noqa: ANN401
    """Create batches of images without augmentation, in the order of the cases, with weights of 1.

    With several ``parts`` (see ``training_batches``), of which ``batch_size`` is a multiple, the last batch
    may end in padding.
    """

    def image_of(step: int) -> Floats:
        return cache.image(int(rows[step]))

    return _batches(image_of, cache, truths, np.ones(len(truths), np.float32), batch_size, parts)


def _batches(
    image_of: Callable[[int], Floats], cache: Cache, truths: Floats, weights: Floats, batch_size: int, parts: int
) -> Any:  # noqa: ANN401
    size = cache.recipe.size

    def load(steps: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        padded = np.append(steps, np.repeat(steps[-1:], -len(steps) % parts))
        images = np.stack([image_of(int(step)) for step in padded])
        weight = weights[padded] * np.float32(len(padded) / len(steps))
        weight[len(steps) :] = 0
        return images, truths[padded], weight

    def map_batch(steps: Any) -> Any:  # noqa: ANN401
        images, truth, weight = tf.numpy_function(load, [steps], (tf.float32, tf.float32, tf.float32), stateful=False)
        return (
            tf.ensure_shape(images, (None, size, size, 1)),
            tf.ensure_shape(truth, (None, truths.shape[1])),
            tf.ensure_shape(weight, (None,)),
        )

    options = tf.data.Options()
    options.deterministic = True
    # One process feeds all GPUs; each batch is divided among them.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    steps = tf.data.Dataset.range(len(truths)).batch(batch_size)
    batches = steps.map(map_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(2).with_options(options)
