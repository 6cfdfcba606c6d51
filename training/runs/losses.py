"""Losses on logits, in backend-neutral Keras; unlabelled classes are ignored."""

from __future__ import annotations

from collections.abc import Callable

from keras import ops

from training.inputs.targets import UNKNOWN, Floats
from training.networks.keras_types import Tensor
from training.recipe import Loss


def make_loss(loss: Loss, activation: str, label_weights: Floats | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss function of a recipe.

    Parameters
    ----------
    loss
        ``crossentropy``, or ``focal``: times (1 - p)^gamma, where p is the probability of the true class.
    activation
        ``sigmoid``: independent classes, mean over the labelled ones; ``softmax``: one true class.
    label_weights
        With sigmoid, the weights of no and yes of each class, (2, classes); None: 1.

    Returns
    -------
    Callable
        From (truths (B, classes), logits (B, classes)) to losses (B,).

    References
    ----------
    Lin et al. 2017, "Focal loss for dense object detection".
    """
    gamma = loss.focal_gamma if loss.name == "focal" else 0.0

    def sigmoid_loss(truths: Tensor, logits: Tensor) -> Tensor:
        is_known = ops.cast(ops.not_equal(truths, UNKNOWN), "float32")
        # -log p of the true answer, yes or no; softplus is exact at large logits.
        surprise = ops.softplus(ops.where(truths > 0.5, -logits, logits))
        each = surprise * _focus(surprise, gamma) * is_known
        if label_weights is not None:
            each = each * ops.where(truths > 0.5, label_weights[1], label_weights[0])
        return ops.sum(each, axis=-1) / ops.maximum(ops.sum(is_known, axis=-1), 1.0)

    def softmax_loss(truths: Tensor, logits: Tensor) -> Tensor:
        surprise = -ops.sum(truths * ops.log_softmax(logits, axis=-1), axis=-1)
        return surprise * _focus(surprise, gamma)

    return softmax_loss if activation == "softmax" else sigmoid_loss


def _focus(surprise: Tensor, gamma: float) -> Tensor:
    return (1.0 - ops.exp(-surprise)) ** gamma if gamma else 1.0
