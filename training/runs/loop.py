"""The training loop: stage by stage, epoch by epoch, resumed from the last checkpoint.

The whole state is saved between two epochs; the order of images and their augmentation are functions
of (seed, epoch). A run that was killed at any moment repeats the interrupted epoch and ends with the
same result as an uninterrupted run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.errors import RunError
from training.files import write_whole
from training.inputs.batches import plain_batches, training_batches
from training.inputs.cache import Cache, ReportProgress
from training.inputs.epoch_order import epoch_order, training_rows
from training.inputs.label_balance import label_weights
from training.inputs.targets import UNKNOWN, Cases, sample_weights, strata
from training.metrics.auc import roc_auc
from training.networks import features_of
from training.networks.keras_types import KerasModel, Optimizer, Strategy
from training.recipe import Stage
from training.runs.checkpoint import State, assign, load_state, load_weights, save_state, save_weights
from training.runs.folder import HISTORY_FILE, Run
from training.runs.freezing import set_trainable
from training.runs.head_regression import fit_head
from training.runs.losses import make_loss

Floats = NDArray[np.float32]

MOST_MEASURED = 2000
"""Most training images whose AUC and accuracy are measured after every epoch."""


@dataclass(frozen=True, slots=True)
class Side:
    """The cases of one side of the split, and their rows in the cache, (N,)."""

    cases: Cases
    rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Prepared images, with the training and validation sides."""

    cache: Cache
    train: Side
    val: Side


class TrainingLoop:
    """The training of one run's network.

    Parameters
    ----------
    run
        The run: folder and recipe.
    network
        From ``training.networks.network.build``, with its initial weights.
    stages
        From ``training.runs.freezing.effective_stages``.
    data
        Images and truths.
    strategy
        From ``training.runs.devices``; it places the variables.
    progress
        Called with the step's name, the number of batches done, and their total.
    """

    def __init__(
        self,
        run: Run,
        network: KerasModel,
        stages: tuple[Stage, ...],
        data: TrainingData,
        *,
        strategy: Strategy,
        progress: ReportProgress,
    ) -> None:
        self._run = run
        self._recipe = run.recipe
        self._network = network
        self._stages = stages
        self._data = data
        self._strategy = strategy
        self._progress = progress
        self._loss = make_loss(run.recipe.loss, run.recipe.task.activation)
        self._rows = training_rows(data.train.cases.truths, run.recipe.balance)
        is_multi_label = run.recipe.task.is_multi_label
        self._weights = sample_weights(data.train.cases, run.recipe.balance, is_multi_label=is_multi_label)
        self._training_loss = self._loss
        if is_multi_label and run.recipe.balance.method == "weights":
            of_labels = label_weights(data.train.cases.truths, self._weights)
            self._training_loss = make_loss(run.recipe.loss, run.recipe.task.activation, of_labels)
        # Without augmentation and balance, as the validation images: the two curves can be compared.
        self._sample = _sample(data.train, self._rows, min(MOST_MEASURED, len(data.val.rows)))
        with strategy.scope():
            # The same layers up to the logit: losses on logits stay exact where probabilities saturate.
            self._trained = keras.Model(network.input, network.get_layer("logit").output, name="trained")

    def fit(self) -> list[dict[str, float | int | str]]:
        """Train the remaining epochs and return the history, one entry for each epoch.

        Raises
        ------
        RunError
            If the loss becomes NaN or infinite, the checkpoint is damaged, or a stage can't accumulate as it says.
        """
        for stage in self._stages:
            self._check_accumulation(stage)
        state = State()
        optimizer_arrays = None
        if (saved := load_state(self._run.checkpoints)) is not None:
            state, arrays, optimizer_arrays = saved
            assign(self._network.variables, arrays)
        while state.stage < len(self._stages):
            self._fit_stage(state, optimizer_arrays or None)
            optimizer_arrays = None
        return state.history

    def _fit_stage(self, state: State, optimizer_arrays: list[NDArray[Any]] | None) -> None:
        stage = self._stages[state.stage]
        if stage.optimizer == "regression":
            self._fit_head(stage, state)
            return
        optimizer = self._compile(stage)
        if optimizer_arrays is not None:
            assign(optimizer.variables, optimizer_arrays)
        # The run may have been killed after the last epoch of the stage.
        is_over = state.epoch >= stage.epochs or 0 < stage.patience <= state.progress.waited
        while not is_over:
            is_over = self._fit_epoch(stage, state, optimizer)
        optimizer.finalize_variable_values(self._trained.trainable_variables)  # to their averages, with ema_momentum
        if stage.keep == "best" and state.best_file is not None:
            assign(self._network.variables, load_weights(self._run.checkpoints / state.best_file))
        self._end_stage(state)

    def _end_stage(self, state: State) -> None:
        state.stage, state.epoch, state.progress, state.best_file = state.stage + 1, 0, type(state.progress)(), None
        save_state(self._run.checkpoints, state, self._network.variables, [])
        self._delete_weights_except(None)

    def _fit_head(self, stage: Stage, state: State) -> None:
        """Fit the head by regression, on the training images without augmentation."""
        train, rows = self._data.train, self._rows
        truths = train.cases.truths[rows]
        images = plain_batches(self._data.cache, train.rows[rows], truths, batch_size=stage.batch_size)
        features = features_of(self._network, images)
        kernel, bias = fit_head(features, truths, self._weights[rows], stage.strength or 1.0)
        self._network.get_layer("evidence").set_weights([kernel, bias])
        loss = keras.ops.convert_to_numpy(self._loss(truths, (features @ kernel[0, 0] + bias).astype(np.float32)))
        figures = {"loss": float(np.mean(loss)), **self._measure(stage)}
        state.history.append({"stage": stage.name, "epoch": state.total_epochs, "learning_rate": 0.0, **figures})
        state.total_epochs += 1
        self._write_history(state)
        self._end_stage(state)

    def _write_history(self, state: State) -> None:
        text = pd.DataFrame(state.history).to_csv(index=False, lineterminator="\n")
        write_whole(self._run.folder / HISTORY_FILE, text)

    def _compile(self, stage: Stage) -> Optimizer:
        set_trainable(self._network, self._recipe.network.architecture, stage)
        with self._strategy.scope():
            optimizer = make_optimizer(stage, self._steps(stage))
            self._trained.compile(optimizer=optimizer, loss=self._training_loss)
            compiled = self._trained.optimizer  # with mixed_float16 wrapped in one that scales the loss
            compiled.build(self._trained.trainable_variables)
        return compiled

    def _check_accumulation(self, stage: Stage) -> None:
        """Refuse a stage that would never make a step, or whose gradients Keras can't accumulate."""
        devices, batches = self._strategy.num_replicas_in_sync, self._steps(stage) * stage.epochs
        if stage.accumulate is not None and devices > 1:
            raise RunError(
                f"Stage {stage.name} has accumulate = {stage.accumulate}, which Keras does on one device only, and the "
                f'run has {devices}: leave accumulate out and use a larger batch_size, or set compute.devices = "auto".'
            )
        if (stage.accumulate or 0) > batches:
            raise RunError(
                f"Stage {stage.name} has {batches} batches in all, and accumulate = {stage.accumulate}: it would never "
                f"make a step. Accepted are at most {batches}; or use a smaller batch_size, or more epochs."
            )

    def _steps(self, stage: Stage) -> int:
        return math.ceil(len(self._order(stage, 0)) / stage.batch_size)

    def _order(self, stage: Stage, epoch: int) -> NDArray[np.int64]:
        return epoch_order(
            self._rows,
            self._data.train.cases.truths,
            self._recipe.balance,
            seed=self._recipe.seed,
            epoch=epoch,
            limit=stage.images_per_epoch,
            is_multi_label=self._recipe.task.is_multi_label,
        )

    def _fit_epoch(self, stage: Stage, state: State, optimizer: Optimizer) -> bool:
        """Train one epoch, validate, save the state; return whether the stage is over."""
        train = self._data.train
        batches = training_batches(
            self._data.cache,
            train.rows,
            train.cases.truths,
            self._weights,
            self._order(stage, state.total_epochs),
            self._recipe.augment,
            seed=self._recipe.seed,
            epoch=state.total_epochs,
            batch_size=stage.batch_size,
            parts=self._strategy.num_replicas_in_sync,
        )
        name = f"Epoch {state.epoch + 1} of {stage.epochs} ({stage.name})"
        callbacks: list[Any] = [_ProgressCallback(self._progress, name, self._steps(stage))]
        trained = _TrainedWeights()
        if stage.ema_momentum is not None:
            callbacks.append(trained)
        rate = _rate(optimizer)
        # With ema_momentum, fit ends by putting the averages into the network: they are validated and kept.
        fitted = self._trained.fit(batches, epochs=1, shuffle=False, verbose=0, callbacks=callbacks)
        figures = {"loss": float(fitted.history["loss"][0]), **self._measure(stage)}
        if not all(math.isfinite(value) for value in figures.values()):
            raise RunError("The loss is NaN or infinite: use a smaller learning rate, or compute in float32.")
        decision = state.progress.update(stage, state.epoch, figures)
        if decision.reduces_rate:
            optimizer.learning_rate = rate * stage.plateau_factor
        state.history.append({"stage": stage.name, "epoch": state.total_epochs, "learning_rate": rate, **figures})
        if decision.is_best and stage.keep == "best":
            state.best_file = f"best-{state.total_epochs}.npz"
            save_weights(self._run.checkpoints / state.best_file, self._network.variables)
        state.epoch, state.total_epochs = state.epoch + 1, state.total_epochs + 1
        if stage.ema_momentum is not None:
            assign(self._trained.trainable_variables, trained.arrays)
        save_state(self._run.checkpoints, state, self._network.variables, optimizer.variables)
        self._delete_weights_except(state.best_file)
        self._write_history(state)
        return decision.stops or state.epoch >= stage.epochs

    def _delete_weights_except(self, best: str | None) -> None:
        for path in self._run.checkpoints.glob("best-*.npz"):
            if path.name != best:
                path.unlink()

    def _measure(self, stage: Stage) -> dict[str, float]:
        """Return the figures of the validation images, and AUC and accuracy of a sample of the training images."""
        trained = self._figures(self._sample, stage)
        validated = self._figures(self._data.val, stage)
        seen = {name: trained[name] for name in ("auc", "accuracy")}
        return {**seen, **{f"val_{name}": value for name, value in validated.items()}}

    def _figures(self, side: Side, stage: Stage) -> dict[str, float]:
        parts = self._strategy.num_replicas_in_sync
        logits = predict_logits(self._trained, self._data.cache, side, stage.batch_size, parts)
        is_exclusive = self._recipe.task.activation == "softmax"
        return figures_of(side.cases.truths, logits, self._loss, is_exclusive=is_exclusive)


def _sample(side: Side, rows: NDArray[np.int64], count: int) -> Side:
    """Return at most ``count`` of the named rows of a side, evenly spaced: the same ones in every epoch."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))]
    cases = Cases(side.cases.frame.iloc[chosen].reset_index(drop=True), side.cases.truths[chosen], {})
    return Side(cases, side.rows[chosen])


def predict_logits(network: KerasModel, cache: Cache, side: Side, batch_size: int = 32, parts: int = 1) -> Floats:
    """Return the logits (N, classes) of one side; ``network`` ends in its logit and runs on ``parts`` devices."""
    even = parts * math.ceil(batch_size / parts)
    batches = plain_batches(cache, side.rows, side.cases.truths, batch_size=even, parts=parts)
    logits: Floats = np.asarray(network.predict(batches, verbose=0), np.float32)
    return logits[: len(side.rows)]


def figures_of(
    truths: Floats, logits: Floats, loss: Callable[[Any, Any], Any], *, is_exclusive: bool
) -> dict[str, float]:
    """Compute loss, exact ROC AUC (mean over the classes) and accuracy of logits.

    Parameters
    ----------
    truths, logits
        (N, classes).
    loss
        From ``training.runs.losses``.
    is_exclusive
        Whether exactly one class is true (softmax).

    Returns
    -------
    dict[str, float]
        ``loss``, ``auc`` and ``accuracy``.
    """
    value = float(np.mean(keras.ops.convert_to_numpy(loss(truths, logits))))
    # With exclusive classes, rank by the log odds of the class against all others.
    scores = logits - _log_sum_of_others(logits) if is_exclusive else logits
    areas = []
    for output in range(truths.shape[1]):
        is_known = truths[:, output] != UNKNOWN
        areas.append(roc_auc(truths[is_known, output] > 0.5, scores[is_known, output]))
    defined = [area for area in areas if area is not None]
    if is_exclusive:
        accuracy = float(np.mean(np.argmax(logits, axis=1) == strata(truths)))
    else:
        is_known = truths != UNKNOWN
        accuracy = float(np.mean((logits > 0)[is_known] == (truths > 0.5)[is_known]))
    # Without a positive and a negative image the AUC is undefined: 0.5, as by chance.
    return {"loss": value, "auc": float(np.mean(defined)) if defined else 0.5, "accuracy": accuracy}


def _log_sum_of_others(logits: Floats) -> Floats:
    columns = range(logits.shape[1])
    return np.stack([np.logaddexp.reduce(np.delete(logits, column, axis=1), axis=1) for column in columns], axis=1)


def make_optimizer(stage: Stage, steps: int) -> Optimizer:
    """Create a stage's optimiser; ``steps`` is the number of batches of an epoch."""
    options: dict[str, Any] = {
        "learning_rate": _make_schedule(stage, steps),
        "clipnorm": stage.clip_norm,
        "gradient_accumulation_steps": stage.accumulate,
        "use_ema": stage.ema_momentum is not None,
    }
    if stage.ema_momentum is not None:
        options["ema_momentum"] = stage.ema_momentum
    if stage.optimizer == "adamw":
        return keras.optimizers.AdamW(weight_decay=stage.weight_decay, **options)
    return keras.optimizers.Adam(**options)


def _make_schedule(stage: Stage, steps: int) -> Any:  # noqa: ANN401 (a rate, or a Keras schedule)
    """Return a stage's learning rate as a function of the batches done, or as the one that it starts with."""
    rate = stage.learning_rate
    if stage.warmup_epochs is not None:
        warmup = stage.warmup_epochs * steps
        # A cosine that ends where it begins, alpha = 1, is constant.
        return keras.optimizers.schedules.CosineDecay(
            0.0,
            stage.epochs * steps - warmup,
            alpha=0.0 if stage.schedule == "cosine" else 1.0,
            warmup_target=rate,
            warmup_steps=warmup,
        )
    if stage.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(rate, stage.epochs * steps)
    if stage.schedule == "inverse_time":
        return keras.optimizers.schedules.InverseTimeDecay(rate, 1, stage.decay)
    return rate


def _rate(optimizer: Optimizer) -> float:
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


class _ProgressCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Report the batches done of an epoch."""

    def __init__(self, progress: ReportProgress, name: str, steps: int) -> None:
        super().__init__()
        self._report, self._step_name, self._steps = progress, name, steps

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._report(self._step_name, batch + 1, self._steps)


class _TrainedWeights(keras.callbacks.Callback):  # type: ignore[misc]
    """Keep an epoch's last weights: ``fit`` replaces them by their averages, and the next epoch goes on from them."""

    def __init__(self) -> None:
        super().__init__()
        self.arrays: list[NDArray[Any]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.arrays = [each.numpy() for each in self.model.trainable_variables]
