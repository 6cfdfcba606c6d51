"""Trainable layers of each stage, and the mode of BatchNorm.

Groups of layers are counted from the end of the trunk under ResNet50's names: ``conv5`` is the last
group of any architecture, ``conv4`` the last two, and so on; the head is always trained.

BatchNorm of a trunk with trained weights is frozen (inference mode): small batches of another kind of
image would ruin its statistics. A random trunk has no statistics yet, and frozen BatchNorm would not
normalise at all: every layer is trained.

References
----------
Keras guide "Transfer learning and fine-tuning" (BatchNormalization in inference mode).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import keras

from cxr.errors import RunError
from training.networks import BACKBONES
from training.networks.keras_types import KerasModel
from training.recipe import Stage, Trained

Phase = Literal["pretrain", "finetune"]

# Layers of the head, and after it.
_HEAD = ("evidence", "pool", "flat", "hidden", "dropout", "logit", "calibrate", "prob")
_FROM_END = {"conv5": 1, "conv4": 2, "conv3": 3, "conv2": 4}


def effective_stages(
    stages: Sequence[Stage], *, phase: Phase, is_random: bool, architecture: str
) -> tuple[tuple[Stage, ...], tuple[str, ...]]:
    """Adapt a recipe's stages to the initial weights of the trunk.

    Parameters
    ----------
    stages
        Stages of the recipe.
    phase
        ``pretrain`` or ``finetune``.
    is_random
        Whether the trunk's weights are random.
    architecture
        A name of ``BACKBONES``.

    Returns
    -------
    tuple
        The stages with ``batch_norm`` other than ``auto``, and sentences that describe the changes.

    Raises
    ------
    RunError
        If a random trunk would be trained with frozen BatchNorm, or not trained at all.
    """
    if not is_random:
        decided = {"auto": "frozen", "frozen": "frozen", "trained": "trained"}
        return tuple(_with(stage, batch_norm=decided[stage.batch_norm]) for stage in stages), ()
    has_batch_norm = BACKBONES[architecture].has_batch_norm
    if has_batch_norm and (phase == "finetune" or any(stage.batch_norm == "frozen" for stage in stages)):
        raise RunError(
            "The trunk's weights are random and its BatchNorm would be frozen, so that nothing is normalised: pretrain "
            "it first (`cxr train pretrain`, then `finetune --from RUN`), or start from trained weights."
        )
    trunk_stages = [stage for stage in stages if stage.train != "head"]
    if not trunk_stages:
        raise RunError(
            "The trunk's weights are random, and this recipe trains the head alone: nothing can be learnt from "
            "random features. Start from trained weights, or add a stage that trains the trunk."
        )
    adapted = tuple(_with(stage, train="all", batch_norm="trained") for stage in trunk_stages)
    if adapted == tuple(stages):
        return adapted, ()
    return adapted, ("Random trunk: no head-only stage; every layer is trained, BatchNorm included.",)


def set_trainable(network: KerasModel, architecture: str, stage: Stage) -> None:
    """Set which layers a stage from ``effective_stages`` trains; compile the network afterwards."""
    first = _first_trained(network, architecture, stage.train)
    heads = head_layers(network)
    for index, layer in enumerate(network.layers):
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        if is_norm and stage.batch_norm_momentum is not None:
            layer.momentum = stage.batch_norm_momentum
        is_frozen_norm = stage.batch_norm == "frozen" and is_norm
        layer.trainable = layer.name in heads or (index >= first and not is_frozen_norm)


def head_layers(network: KerasModel) -> frozenset[str]:
    """Return the names of the layers after the trunk."""
    names = [layer.name for layer in network.layers]
    start = next(index for index, name in enumerate(names) if _is_head(name))
    return frozenset(names[start:])


def _is_head(name: str) -> bool:
    # DenseNet's pool2_conv and ResNet's pool1_pool belong to the trunk.
    return any(name == word or (word == "hidden" and name.startswith(word)) for word in _HEAD)


def _first_trained(network: KerasModel, architecture: str, trained: Trained) -> int:
    """Return the index of the first trained layer."""
    if trained == "head":
        return len(network.layers)
    if trained == "all":
        return 0
    stages = BACKBONES[architecture].stages
    prefix = stages[max(0, len(stages) - _FROM_END[trained])]
    return next(index for index, layer in enumerate(network.layers) if layer.name.startswith(prefix))


def _with(stage: Stage, **changes: str) -> Stage:
    return stage.model_copy(update=changes)
