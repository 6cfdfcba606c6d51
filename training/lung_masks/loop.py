"""Fit a U-Net to drawn lungs, epoch by epoch, from where it stands.

As in ``training.runs.loop``, an epoch is a function of (seed, epoch), and between two epochs the whole
state goes to the disk: killed at any moment, the same command comes to the same result.
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

MOVES: Final = Augment(rotation_degrees=10.0, shift=0.08, zoom=0.15)
"""What moves picture and mask alike."""

CHANGES: Final = MOVES.model_copy(update={"gamma": (0.6, 1.6), "noise": 0.03})
"""What changes the picture: the same moves, and its greys."""

Batch = tuple[Grey, Grey]


@dataclass(frozen=True, slots=True)
class MaskTrainingData:
    """What a fitting is given beside its network."""

    pairs: Pairs
    size: int  # of the U-Net
    stage: Stage
    seed: int


def overlap_loss(truth: Tensor, chance: Tensor) -> Tensor:
    """Cross-entropy plus 1 minus soft Dice: exact at borders, and not drowned by what is outside.

    References
    ----------
    Milletari et al. 2016, "V-Net" (Dice as a loss).
    """
    axes = (1, 2, 3)
    common = keras.ops.sum(truth * chance, axis=axes)
    total = keras.ops.sum(truth, axis=axes) + keras.ops.sum(chance, axis=axes)
    entropy = keras.ops.mean(keras.ops.binary_crossentropy(truth, chance), axis=axes)
    return entropy + 1 - (2 * common + 1) / (total + 1)


def fit_masks(network: KerasModel, data: MaskTrainingData, folder: Path, progress: ReportProgress) -> None:
    """Do what is left to do; the network then has the weights of the best epoch.

    Parameters
    ----------
    network
        From ``training.networks.unet.build_unet``.
    data
        Pairs, and how they are learnt.
    folder
        With ``checkpoints``; the history is written there.
    progress
        Called with a step's name, how many are done, and of how many.

    Raises
    ------
    RunError
        If the loss stops being a number, or the checkpoint is damaged.
    """
    stage, checkpoints = data.stage, folder / "checkpoints"
    optimizer = keras.optimizers.Adam(stage.learning_rate)
    network.compile(optimizer=optimizer, loss=overlap_loss)
    optimizer.build(network.trainable_variables)
    state = State()
    if (found := load_state(checkpoints)) is not None:
        state, arrays, moments = found
        assign(network.variables, arrays)
        assign(optimizer.variables, moments)
    while state.epoch < stage.epochs and not 0 < stage.patience <= state.progress.waited:
        figures = _fit_epoch(network, data, state, progress)
        verdict = state.progress.see(stage, state.epoch, figures)
        state.history.append({"epoch": state.epoch, **figures})
        earlier = state.best_file
        if verdict.is_best:
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
    for pictures, lungs in _training_batches(data, rows, state.epoch):
        losses.append(float(network.train_on_batch(pictures, lungs)))
        counts.append(len(pictures))
        progress(name, sum(counts), len(rows))
    figures = {"loss": float(np.average(losses, weights=counts)), "val_loss": _validation_loss(network, data)}
    if not all(math.isfinite(value) for value in figures.values()):
        raise RunError("The loss is not a number any more: use a smaller --learning-rate.")
    return figures


def _validation_loss(network: KerasModel, data: MaskTrainingData) -> float:
    values: list[NDArray[np.float64]] = []
    rows = data.pairs.side("val")
    for start in range(0, len(rows), data.stage.batch_size):
        pairs = [_pair(data, int(row)) for row in rows[start : start + data.stage.batch_size]]
        pictures, lungs = (np.stack(each) for each in zip(*pairs, strict=True))
        values.append(np.asarray(keras.ops.convert_to_numpy(overlap_loss(lungs, network.predict_on_batch(pictures)))))
    return float(np.concatenate(values).mean())


def _training_batches(data: MaskTrainingData, rows: Rows, epoch: int) -> Iterator[Batch]:
    order = np.random.default_rng((data.seed, epoch)).permutation(rows)
    for start in range(0, len(order), data.stage.batch_size):
        part = order[start : start + data.stage.batch_size]
        pairs = [_pair(data, int(row), epoch=epoch, place=start + step) for step, row in enumerate(part)]
        yield np.stack([picture for picture, _ in pairs]), np.stack([lungs for _, lungs in pairs])


def _pair(data: MaskTrainingData, row: int, *, epoch: int | None = None, place: int = 0) -> Batch:
    """Give one picture and its lungs (size, size, 1), as the U-Net takes them; of an epoch: changed at random."""
    picture, lungs = data.pairs.plain(row), data.pairs.drawn(row)[:, :, np.newaxis].astype(np.float32)
    if epoch is not None:
        # Both draw the same numbers for their moves, whatever else is changed.
        picture = augment(picture, CHANGES, seed=data.seed, epoch=epoch, row=place)
        lungs = augment(lungs, MOVES, seed=data.seed, epoch=epoch, row=place)
    small = resized(picture[:, :, 0], data.size)[:, :, np.newaxis]
    return small, (resized(lungs[:, :, 0], data.size) >= 0.5)[:, :, np.newaxis].astype(np.float32)
