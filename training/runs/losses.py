"""Losses on logits, in backend-neutral Keras; what the data set does not say does not count."""

from __future__ import annotations

from collections.abc import Callable

from keras import ops

from training.inputs.targets import UNKNOWN
from training.networks.keras_types import Tensor
from training.recipe import Loss


def make_loss(loss: Loss, activation: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Make the loss of a recipe.

    Parameters
    ----------
    loss
        ``crossentropy``, or ``focal``: times (1 - p)^gamma, p the probability of what is true.
    activation
        ``sigmoid``: each class by itself, the mean over those that are known; ``softmax``: one is true.

    Returns
    -------
    Callable
        Of (truths (B, classes), logits (B, classes)), giving (B,).

    References
    ----------
    Lin et al. 2017, "Focal loss for dense object detection".
    """
    gamma = loss.focal_gamma if loss.name == "focal" else 0.0

    def sigmoid_loss(truths: Tensor, logits: Tensor) -> Tensor:
        is_known = ops.cast(ops.not_equal(truths, UNKNOWN), "float32")
        # -log of the probability of what is true: one formula for both, exact at large logits.
        surprise = ops.softplus(ops.where(truths > 0.5, -logits, logits))
        each = surprise * _focus(surprise, gamma) * is_known
        return ops.sum(each, axis=-1) / ops.maximum(ops.sum(is_known, axis=-1), 1.0)

    def softmax_loss(truths: Tensor, logits: Tensor) -> Tensor:
        surprise = -ops.sum(truths * ops.log_softmax(logits, axis=-1), axis=-1)
        return surprise * _focus(surprise, gamma)

    return softmax_loss if activation == "softmax" else sigmoid_loss


def _focus(surprise: Tensor, gamma: float) -> Tensor:
    return (1.0 - ops.exp(-surprise)) ** gamma if gamma else 1.0
