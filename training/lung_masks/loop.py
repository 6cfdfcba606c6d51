"""The training loop of the U-Net that segments the lungs, resumed from the last checkpoint.

As in ``training.runs.loop``, an epoch is a function of (seed, epoch), and the whole state is saved
between two epochs: after a kill the same command ends with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.errors import RunError
from cxr.package.lung_mask import Grey, resized
from training.files import write_whole
from training.inputs.augment import augment
from training.inputs.cache import ReportProgress
from training.lung_masks.pairs import Pairs, Rows
from training.networks.keras_types import KerasModel, Tensor
from training.recipe import Augment, Stage
from training.runs.checkpoint import State, assign, load_state, load_weights, save_state, save_weights
from training.runs.folder import HISTORY_FILE

GEOMETRY: Final = Augment(rotation_degrees=10.0, shift=0.08, zoom=0.15)
"""Random geometry, the same for image and mask."""

GEOMETRY_AND_GREY: Final = GEOMETRY.model_copy(update={"gamma": (0.6, 1.6), "noise": 0.03})
"""Changes of the image: the same geometry, and its grey levels."""

Batch = tuple[Grey, Grey]


@dataclass(frozen=True, slots=True)
class MaskTrainingData:
    """Image and mask pairs, and how the U-Net is trained on them."""

    pairs: Pairs
    size: int  # of the U-Net
    stage: Stage
    seed: int


def overlap_loss(truth: Tensor, probability: Tensor) -> Tensor:
    """Return cross-entropy plus 1 - soft Dice, shape (B,): Dice keeps the background from dominating.

    Parameters
    ----------
    truth, probability
        (B, size, size, 1), in [0, 1].

    References
    ----------
    Milletari et al. 2016, "V-Net" (Dice as a loss).
    """
    axes = (1, 2, 3)
    common = keras.ops.sum(truth * probability, axis=axes)
    total = keras.ops.sum(truth, axis=axes) + keras.ops.sum(probability, axis=axes)
    entropy = keras.ops.mean(keras.ops.binary_crossentropy(truth, probability), axis=axes)
    return entropy + 1 - (2 * common + 1) / (total + 1)


def fit_masks(network: KerasModel, data: MaskTrainingData, folder: Path, progress: ReportProgress) -> None:
    """Train the remaining epochs; set the weights of the best epoch.

    Parameters
    ----------
    network
        From ``training.networks.unet.build_unet``.
    data
        Pairs and training settings.
    folder
        Folder of ``checkpoints``; the history is written there.
    progress
        Called with the step's name, the number of images done, and their total.

    Raises
    ------
    RunError
        If the loss becomes NaN or infinite, or the checkpoint is damaged.
    """
    stage, checkpoints = data.stage, folder / "checkpoints"
    optimizer = keras.optimizers.Adam(stage.learning_rate)
    network.compile(optimizer=optimizer, loss=overlap_loss)
    optimizer.build(network.trainable_variables)
    state = State()
    if (saved := load_state(checkpoints)) is not None:
        state, arrays, moments = saved
        assign(network.variables, arrays)
        assign(optimizer.variables, moments)
    while state.epoch < stage.epochs and not 0 < stage.patience <= state.progress.waited:
        figures = _fit_epoch(network, data, state, progress)
        decision = state.progress.update(stage, state.epoch, figures)
        state.history.append({"epoch": state.epoch, **figures})
        earlier = state.best_file
        if decision.is_best:
            state.best_file = f"best-{state.epoch}.npz"
            save_weights(checkpoints / state.best_file, network.variables)
        state.epoch += 1
        save_state(checkpoints, state, network.variables, optimizer.variables)
        if earlier is not None and earlier != state.best_file:
            (checkpoints / earlier).unlink(missing_ok=True)
        write_whole(folder / HISTORY_FILE, pd.DataFrame(state.history).to_csv(index=False, lineterminator="\n"))
    if state.best_file is not None:
        assign(network.variables, load_weights(checkpoints / state.best_file))


def _fit_epoch(network: KerasModel, data: MaskTrainingData, state: State, progress: ReportProgress) -> dict[str, float]:
    name = f"Epoch {state.epoch + 1} of {data.stage.epochs}"
    rows = data.pairs.side("train")
    losses, counts = [], []
    for images, lungs in _training_batches(data, rows, state.epoch):
        losses.append(float(network.train_on_batch(images, lungs)))
        counts.append(len(images))
        progress(name, sum(counts), len(rows))
    figures = {"loss": float(np.average(losses, weights=counts)), "val_loss": _validation_loss(network, data)}
    if not all(math.isfinite(value) for value in figures.values()):
        raise RunError("The loss is NaN or infinite: use a smaller --learning-rate.")
    return figures


def _validation_loss(network: KerasModel, data: MaskTrainingData) -> float:
    values: list[NDArray[np.float64]] = []
    rows = data.pairs.side("val")
    for start in range(0, len(rows), data.stage.batch_size):
        pairs = [_pair(data, int(row)) for row in rows[start : start + data.stage.batch_size]]
        images, lungs = (np.stack(each) for each in zip(*pairs, strict=True))
        values.append(np.asarray(keras.ops.convert_to_numpy(overlap_loss(lungs, network.predict_on_batch(images)))))
    return float(np.concatenate(values).mean())


def _training_batches(data: MaskTrainingData, rows: Rows, epoch: int) -> Iterator[Batch]:
    order = np.random.default_rng((data.seed, epoch)).permutation(rows)
    for start in range(0, len(order), data.stage.batch_size):
        part = order[start : start + data.stage.batch_size]
        pairs = [_pair(data, int(row), epoch=epoch, position=start + step) for step, row in enumerate(part)]
        yield np.stack([image for image, _ in pairs]), np.stack([lungs for _, lungs in pairs])


def _pair(data: MaskTrainingData, row: int, *, epoch: int | None = None, position: int = 0) -> Batch:
    """Return one image and its mask, each (size, size, 1), for the U-Net; augmented when an epoch is given."""
    image, lungs = data.pairs.plain(row), data.pairs.drawn(row)[:, :, np.newaxis].astype(np.float32)
    if epoch is not None:
        # The same random numbers give both the same geometry.
        image = augment(image, GEOMETRY_AND_GREY, seed=data.seed, epoch=epoch, row=position)
        lungs = augment(lungs, GEOMETRY, seed=data.seed, epoch=epoch, row=position)
    small = resized(image[:, :, 0], data.size)[:, :, np.newaxis]
    return small, (resized(lungs[:, :, 0], data.size) >= 0.5)[:, :, np.newaxis].astype(np.float32)
