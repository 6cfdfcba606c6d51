"""Runs: what they write, what they refuse, and that they learn; losses and stopping against plain formulas."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from cxr.errors import RunError
from cxr.package import load_package
from cxr.pixels.model_input import to_model_input
from inference.model.model import Model
from training.cli.main import app
from training.evaluation import read_predictions
from training.metrics.auc import roc_auc
from training.networks import build
from training.packaging.build import package_run
from training.recipe import Compute, Loss, Stage, TrainingRecipe, load_recipe
from training.runs import devices
from training.runs.devices import choose_strategy, device_scope
from training.runs.early_stopping import Progress
from training.runs.ensemble import ensemble
from training.runs.folder import Run, open_run
from training.runs.loop import figures_of, make_optimizer
from training.runs.losses import make_loss
from training.runs.train import Options, finetune, pretrain
from training.shipped.quantise import quantise, quantise_run

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TINY = ("network.architecture=tiny", "pixels.size=64", "stages.1.batch_size=8", "stages.0.batch_size=8")
PRETRAIN = (*TINY, "weights.source=random", 'task.classes=["covid19"]', "split.fractions=[0.5,0.25,0.25]",
            "stages.1.learning_rate=0.01", "stages.1.epochs=8", "augment.cut_out=0.0")  # fmt: skip
FINETUNE = (*TINY, "split.strategy=patient", "split.fractions=[0.5,0.25,0.25]", "stages.0.epochs=1",
            "stages.1.epochs=2")  # fmt: skip


def recipe(name: str, *overrides: str) -> TrainingRecipe:
    return load_recipe(name, overrides)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory, draw_cases: Callable[..., Path]) -> Path:
    return draw_cases(tmp_path_factory.mktemp("drawn"), 64)


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return Options(cache=tmp_path_factory.mktemp("cache"), processes=1)


@pytest.fixture(scope="session")
def pretrained(drawn: Path, options: Options, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    return pretrain(recipe("default-pretrain", *PRETRAIN), drawn, folder, now=NOW, options=options)


@pytest.fixture(scope="session")
def other_seed(drawn: Path, options: Options, tmp_path_factory: pytest.TempPathFactory) -> Run:
    wanted = recipe("default-pretrain", *PRETRAIN, "seed=1")
    return pretrain(wanted, drawn, tmp_path_factory.mktemp("runs") / "other", now=NOW, options=options)


def test_a_run_learns_and_writes_what_it_should(pretrained: Run) -> None:
    assert pretrained.is_done
    assert {path.name for path in pretrained.folder.iterdir()} >= {
        "config.toml", "environment.json", "manifest.csv", "splits.csv", "preprocess.json", "history.csv",
        "checkpoints", "model.keras", "operating_point.json", "predictions_val.csv", "predictions_test.csv",
        "fingerprint.json", "calibration.json", "left_out.json", "run.json",
    }  # fmt: skip
    history = pd.read_csv(pretrained.folder / "history.csv")
    assert len(history) == 8
    assert set(history["stage"]) == {"trunk"}  # random weights: no head-only stage
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history["val_auc"].max() > 0.8
    for name in ("auc", "accuracy", "val_accuracy"):  # both curves of a figure, every epoch
        assert history[name].between(0, 1).all()
    assert history["auc"].iloc[-1] > 0.8
    assert history["learning_rate"].is_monotonic_decreasing  # cosine
    validation = read_predictions(pretrained.folder / "predictions_val.csv")
    best = history["val_auc"].max()
    assert roc_auc(validation.truth("covid19"), validation.score("covid19")) == pytest.approx(best)  # the best is kept


def test_calibration_and_threshold_are_of_the_validation_images(pretrained: Run) -> None:
    calibration = json.loads((pretrained.folder / "calibration.json").read_text())
    assert calibration["calibrated"]
    assert calibration["loss_after"][0] < calibration["loss_before"][0]
    network = keras.saving.load_model(pretrained.folder / "model.keras", compile=False)
    layer = network.get_layer("calibrate")
    assert layer.scale == pytest.approx(calibration["scale"])
    points = json.loads((pretrained.folder / "operating_point.json").read_text())
    validation = read_predictions(pretrained.folder / "predictions_val.csv")
    assert points["images"] == len(validation)
    scores = validation.probability("covid19")[validation.truth("covid19")]
    assert np.mean(scores >= points["classes"]["covid19"]["threshold"]) >= 0.9


def test_predictions_are_what_serving_gives(pretrained: Run, tmp_path: Path) -> None:
    package = package_run(pretrained.folder, tmp_path / "package", replicates=100)
    assert load_package(package.folder).fingerprint == package.fingerprint
    assert package.manifest.calibrated
    assert package.manifest.recipe == pretrained.recipe.pixels
    figures: Any = package.manifest.evaluation
    assert figures["classes"]["covid19"]["auc"] is not None
    test = read_predictions(pretrained.folder / "predictions_test.csv")
    paths = pretrained.manifest().set_index("image_id").loc[test.frame["image_id"], "path"]
    batch = np.stack([to_model_input(Path(path), package.manifest.recipe) for path in paths])
    served = Model.load(package, device="cpu").score(batch)
    np.testing.assert_allclose(served.probabilities[:, 0], test.probability("covid19"), atol=1e-5)
    assert served.evidence is not None
    assert package_run(pretrained.folder, tmp_path / "again", replicates=100).fingerprint == package.fingerprint


def test_a_rounded_run_is_finished_anew_with_its_rounded_weights(
    pretrained: Run, drawn: Path, options: Options, tmp_path: Path
) -> None:
    run = quantise_run(pretrained.folder, tmp_path / "rounded", now=NOW, options=options)
    assert (run.parent, run.is_done) == (pretrained.fingerprint(), True)
    weights = keras.saving.load_model(run.folder / "model.keras", compile=False).get_weights()
    expected = quantise(keras.saving.load_model(pretrained.folder / "model.keras", compile=False).get_weights())
    assert all(np.array_equal(*each) for each in zip(weights, expected, strict=True))
    before, after = (read_predictions(each.folder / "predictions_test.csv") for each in (pretrained, run))
    assert list(after.frame["image_id"]) == list(before.frame["image_id"])
    assert 0 < np.abs(after.probability("covid19") - before.probability("covid19")).max() < 0.1
    package = package_run(run.folder, tmp_path / "package", replicates=100)
    assert pretrained.fingerprint() in package.manifest.provenance.parents
    assert quantise_run(pretrained.folder, run.folder, now=NOW, options=options).is_done
    with pytest.raises(RunError, match="another run"):
        quantise_run(pretrained.folder, pretrained.folder, now=NOW, options=options)


def test_the_same_command_gives_the_same_run(
    pretrained: Run, other_seed: Run, drawn: Path, options: Options, tmp_path: Path
) -> None:
    again = pretrain(pretrained.recipe, drawn, tmp_path / "again", now=NOW, options=options)
    assert (again.folder / "model.keras").read_bytes() == (pretrained.folder / "model.keras").read_bytes()
    assert again.fingerprint() == pretrained.fingerprint()
    assert other_seed.fingerprint() != pretrained.fingerprint()


def test_fine_tuning_starts_from_the_runs_trunk_and_trains_the_last_stage(
    pretrained: Run, drawn: Path, options: Options, tmp_path: Path
) -> None:
    run = finetune(
        recipe("default-finetune", *FINETUNE),
        drawn,
        tmp_path / "run",
        start=pretrained.folder,
        now=NOW,
        options=options,
    )
    assert run.parent == pretrained.fingerprint()
    history = pd.read_csv(run.folder / "history.csv")
    assert history["stage"].tolist() == ["head", "trunk", "trunk"]
    first, second = (keras.saving.load_model(each.folder / "model.keras", compile=False) for each in (pretrained, run))
    for name, is_same in (("conv1", True), ("conv2", True), ("conv3", False), ("evidence", False)):
        kernels = [network.get_layer(name).kernel.numpy() for network in (first, second)]
        assert np.array_equal(*kernels) == is_same, name


def test_a_finished_run_is_given_back_and_a_folder_holds_one_run(
    pretrained: Run, drawn: Path, options: Options, tmp_path: Path
) -> None:
    before = (pretrained.folder / "model.keras").stat().st_mtime_ns
    again = pretrain(pretrained.recipe, drawn, pretrained.folder, now=NOW, options=options)
    assert again.is_done
    assert (pretrained.folder / "model.keras").stat().st_mtime_ns == before
    with pytest.raises(RunError, match="another recipe"):
        pretrain(recipe("default-pretrain", *PRETRAIN, "seed=1"), drawn, pretrained.folder, now=NOW, options=options)
    (tmp_path / "mine").write_text("something else")
    with pytest.raises(RunError, match="other files"):
        pretrain(pretrained.recipe, drawn, tmp_path, now=NOW, options=options)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("pixels.fit=stretch", "pixel recipe"),
        ("network.scaling=unit", "network"),
        ("lung_masks=manifest", "lung_masks"),
    ],
)
def test_a_run_does_not_go_on_with_another_kind_of_input(
    override: str, said: str, pretrained: Run, drawn: Path, tmp_path: Path
) -> None:
    wanted = recipe("default-finetune", *FINETUNE, override)
    with pytest.raises(RunError, match=said):
        finetune(wanted, drawn, tmp_path / "run", start=pretrained.folder, now=NOW)
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_at_another_size_where_the_recipe_says_so(pretrained: Run, drawn: Path, tmp_path: Path) -> None:
    larger = (*FINETUNE, "pixels.size=96", "stages.0.images_per_epoch=8", "stages.1.epochs=1")
    with pytest.raises(RunError, match="other_size"):
        finetune(recipe("default-finetune", *larger), drawn, tmp_path / "run", start=pretrained.folder, now=NOW)
    wanted = recipe("default-finetune", *larger, "weights.other_size=true", "stages.1.train=head")
    run = finetune(wanted, drawn, tmp_path / "run", start=pretrained.folder, now=NOW)
    before, after = (keras.saving.load_model(each.folder / "model.keras", compile=False) for each in (pretrained, run))
    assert after.input_shape == (None, 96, 96, 1)
    for name in ("conv1", "conv2", "conv3"):
        for old, new in zip(before.get_layer(name).weights, after.get_layer(name).weights, strict=True):
            np.testing.assert_array_equal(np.asarray(new), np.asarray(old))
    with pytest.raises(RunError, match="pixel recipe"):  # of size alone
        finetune(
            recipe("default-finetune", *larger, "weights.other_size=true", "pixels.fit=stretch"), drawn,
            tmp_path / "other", start=pretrained.folder, now=NOW,
        )  # fmt: skip


def test_verbs_say_which_of_them_a_recipe_is_for(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="finetune --from"):
        pretrain(recipe("default-finetune", *FINETUNE), drawn, tmp_path / "run", now=NOW)
    with pytest.raises(RunError, match="--from RUN"):
        finetune(recipe("default-finetune", *FINETUNE), drawn, tmp_path / "run", now=NOW)
    with pytest.raises(RunError, match="leave --from out"):
        finetune(recipe("default-pretrain", *PRETRAIN), drawn, tmp_path / "run", start=tmp_path, now=NOW)
    with pytest.raises(RunError, match="not a training run"):
        open_run(tmp_path)


def test_one_class_alone_is_refused(drawn: Path, tmp_path: Path, draw_cases: Callable[..., Path]) -> None:
    alone = draw_cases(tmp_path / "alone", 12, label=["normal"] * 12, split=["train"] * 6 + ["val"] * 6)
    wanted = recipe("default-pretrain", *PRETRAIN)
    with pytest.raises(RunError, match="two classes"):
        pretrain(wanted, alone, tmp_path / "run", now=NOW, options=Options(processes=1))


@pytest.mark.parametrize(
    "overrides",
    [
        ('task={classes=["covid19","normal"], activation="softmax"}', "balance.method=oversample"),
        ("loss.name=focal", "stages.1.schedule=plateau", "finish.calibration=none", "finish.rule=fixed"),
        ('network={architecture="tiny", head="dense", pooling="maximum", hidden=[8], dropout=0.5}',),
        ("compute.precision=mixed_bfloat16", "balance.by_source=true", "stages.1.images_per_epoch=16"),
    ],
)
def test_every_kind_of_recipe_runs_to_a_package_that_serves(
    overrides: tuple[str, ...], drawn: Path, options: Options, tmp_path: Path
) -> None:
    wanted = recipe("default-pretrain", *PRETRAIN, "stages.1.epochs=1", *overrides)
    run = pretrain(wanted, drawn, tmp_path / "run", now=NOW, options=options)
    package = package_run(run.folder, tmp_path / "package", replicates=100)
    model = Model.load(package, device="cpu")
    test = read_predictions(run.folder / "predictions_test.csv")
    paths = run.manifest().set_index("image_id").loc[test.frame["image_id"], "path"]
    batch = np.stack([to_model_input(Path(path), package.manifest.recipe) for path in paths])
    np.testing.assert_allclose(model.score(batch).probabilities[:, 0], test.probability("covid19"), atol=1e-5)
    assert keras.config.dtype_policy().name == "float32"


def test_an_ensemble_is_the_mean_of_its_members_logits(
    pretrained: Run, other_seed: Run, drawn: Path, options: Options, tmp_path: Path
) -> None:
    other = other_seed
    made = ensemble([pretrained.folder, other.folder], tmp_path / "both", now=NOW, options=options)
    package = package_run(made.folder, tmp_path / "package", replicates=100)
    assert made.parent in package.manifest.provenance.parents
    batch = np.random.default_rng(0).random((3, 64, 64, 1), dtype=np.float32)
    served = Model.load(package, device="cpu").score(batch)
    maps = []
    for folder in (pretrained.folder, other.folder):
        network = keras.saving.load_model(folder / "model.keras", compile=False)
        maps.append(network(batch)[1].numpy())
    mean = np.mean(maps, axis=0)
    assert served.evidence is not None
    np.testing.assert_allclose(served.evidence, mean, atol=1e-5)
    calibration = json.loads((made.folder / "calibration.json").read_text())
    logits = calibration["scale"] * mean.mean(axis=(1, 2)) + calibration["offset"]
    np.testing.assert_allclose(served.probabilities, 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert json.loads((made.folder / "spread.json").read_text())["mean_standard_deviation_of_logits"] > 0
    assert ensemble([other.folder, pretrained.folder], tmp_path / "both", now=NOW).fingerprint() == made.fingerprint()
    with pytest.raises(RunError, match="two different"):
        ensemble([other.folder, other.folder], tmp_path / "same", now=NOW)
    third = recipe("default-pretrain", *PRETRAIN, "stages.1.epochs=1")
    alien = pretrain(third, drawn, tmp_path / "third", now=NOW, options=options)
    with pytest.raises(RunError, match="only in their seed"):
        ensemble([other.folder, alien.folder], tmp_path / "mixed", now=NOW)


def test_losses_are_the_plain_formulas() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(6, 3)).astype(np.float32)
    truths = random.integers(-1, 2, (6, 3)).astype(np.float32)
    truths[0] = 1
    chance = 1 / (1 + np.exp(-logits.astype(np.float64)))
    right = np.where(truths == 1, chance, 1 - chance)
    known = truths >= 0
    for loss, factor in ((Loss(), 1), (Loss(name="focal", focal_gamma=2.0), (1 - right) ** 2)):
        each = -np.log(right) * factor * known
        expected = each.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        np.testing.assert_allclose(np.asarray(make_loss(loss, "sigmoid")(truths, logits)), expected, rtol=1e-5)
    of_labels = np.array([[0.5, 1.0, 2.0], [3.0, 1.0, 0.25]], np.float32)  # no, yes
    weighted = -np.log(right) * known * np.where(truths == 1, of_labels[1], of_labels[0])
    expected = weighted.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    np.testing.assert_allclose(np.asarray(make_loss(Loss(), "sigmoid", of_labels)(truths, logits)), expected, rtol=1e-5)
    one_hot = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log((shares * one_hot).sum(axis=1))
    np.testing.assert_allclose(np.asarray(make_loss(Loss(), "softmax")(one_hot, logits)), expected, rtol=1e-5)
    # Two softmax outputs with binary cross-entropy, as the VGG16 predecessor had: the same number.
    two = shares[:, :2] / shares[:, :2].sum(axis=1, keepdims=True)
    hot = np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 1, 0]]
    theirs = keras.losses.binary_crossentropy(hot, two).numpy()
    np.testing.assert_allclose(np.asarray(make_loss(Loss(), "softmax")(hot, np.log(two))), theirs, rtol=1e-4)


def test_losses_survive_large_logits() -> None:
    loss = make_loss(Loss(), "sigmoid")
    values = np.asarray(loss(np.array([[1.0], [0.0]], np.float32), np.array([[-200.0], [200.0]], np.float32)))
    assert values.tolist() == [200, 200]


def test_the_validation_area_is_exact() -> None:
    random = np.random.default_rng(0)
    truths = (random.random((500, 1)) < 0.05).astype(np.float32)
    logits = (random.normal(size=(500, 1)) + 2 * truths - 8).astype(np.float32)  # small scores: Keras's own is off here
    found = figures_of(truths, logits, make_loss(Loss(), "sigmoid"), is_exclusive=False)
    assert found["auc"] == roc_auc(truths[:, 0] > 0, logits[:, 0])


def stage(**changes: Any) -> Stage:
    given: dict[str, Any] = {
        "name": "a",
        "train": "all",
        "learning_rate": 0.1,
        "epochs": 99,
        "monitor": "val_loss",
        "patience": 4,
    }
    return Stage(**(given | {"schedule": "plateau", "plateau_patience": 2} | changes))


def test_stopping_and_slowing_down_are_kerases_own() -> None:
    losses = [1.0, 0.9, 0.95, 0.91, 0.89, 0.9, 0.9, 0.9, 0.9, 0.9]
    progress, decisions = Progress(), []
    for epoch, loss in enumerate(losses):
        progress = Progress.from_document(json.loads(json.dumps(progress.document())))  # killed after every epoch
        decisions.append(progress.update(stage(), epoch, {"val_loss": loss}))
    stopper = keras.callbacks.EarlyStopping(monitor="val_loss", patience=4)
    reducer = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=2, min_lr=0.0)
    network = build("tiny", size=64)
    network.compile("sgd")
    for callback in (stopper, reducer):
        callback.set_model(network)
        callback.on_train_begin()
    expected = []
    for epoch, loss in enumerate(losses):
        before = float(network.optimizer.learning_rate.numpy())
        for callback in (stopper, reducer):
            callback.on_epoch_end(epoch, {"val_loss": loss})
        expected.append((float(network.optimizer.learning_rate.numpy()) < before, bool(network.stop_training)))
    assert [(each.reduces_rate, each.stops) for each in decisions] == expected
    assert [each.is_best for each in decisions] == [True, True, False, False, True, *[False] * 5]


def test_an_area_rises_and_a_loss_decides_between_equal_ones() -> None:
    progress = Progress()
    rising = stage(monitor="val_auc", patience=2)
    seen = [(0.5, 0.7), (0.7, 0.6), (0.6, 0.1), (0.7, 0.5), (0.7, 0.5), (0.7, 0.6)]
    decisions = [
        progress.update(rising, epoch, {"val_auc": area, "val_loss": loss}) for epoch, (area, loss) in enumerate(seen)
    ]
    assert [each.is_best for each in decisions] == [True, True, False, True, False, False]
    assert [each.stops for each in decisions] == [False] * 5 + [True]


MIRRORED = """
import sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from datetime import datetime, UTC
from pathlib import Path
from training.runs.devices import choose_strategy
from training.runs.train import Options, pretrain
from training.recipe import load_recipe
if __name__ == "__main__":
    manifest, cache, folder = (Path(each) for each in sys.argv[1:4])
    for devices in ("all", "cpu"):
        recipe = load_recipe("default-pretrain", [*sys.argv[4:], f"compute.devices={devices}"])
        options = Options(cache=cache, processes=1)
        pretrain(recipe, manifest, folder / devices, now=datetime(2026, 1, 2, tzinfo=UTC), options=options)
        print(choose_strategy(recipe.compute).num_replicas_in_sync)
"""


def test_two_devices_give_what_one_gives(draw_cases: Callable[..., Path], tmp_path: Path) -> None:
    # Batches of 7 can't be halved, and the last has one image, for two devices.
    sides = ["train"] * 36 + ["val"] * 17 + ["test"] * 13
    drawn = draw_cases(tmp_path / "drawn", 66, split=sides)
    script = tmp_path / "mirrored.py"
    script.write_text(MIRRORED)
    overrides = (*PRETRAIN, "stages.1.epochs=3", "stages.1.batch_size=7", "pixels.size=32",
                 "stages.1.ema_momentum=0.5")  # fmt: skip
    command = [sys.executable, *map(str, (script, drawn, tmp_path / "cache", tmp_path)), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "1"]
    two, one = (pd.read_csv(tmp_path / devices / "history.csv") for devices in ("all", "cpu"))
    assert two["val_loss"].iloc[-1] < two["val_loss"].iloc[0]
    # Sums over halves of a batch are rounded otherwise than sums over the whole.
    np.testing.assert_allclose(two["val_loss"], one["val_loss"], rtol=1e-4)
    predicted = [read_predictions(tmp_path / devices / "predictions_test.csv") for devices in ("all", "cpu")]
    np.testing.assert_allclose(*(each.probability("covid19") for each in predicted), atol=1e-4)
    command[4] = str(tmp_path / "accumulated")
    done = subprocess.run([*command, "stages.1.accumulate=2"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Keras does on one device only, and the run has 2" in done.stderr


def test_float16_learns_resumes_and_ends_in_float32(
    drawn: Path, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "check_precision", lambda compute: None)  # a CPU computes it too, slowly
    wanted = recipe(
        "default-pretrain", *PRETRAIN, "compute.precision=mixed_float16", "stages.1.epochs=6",
        "stages.1.schedule=plateau", "stages.1.plateau_patience=1",
    )  # fmt: skip
    run = pretrain(wanted, drawn, tmp_path / "run", now=NOW, options=options)
    history = pd.read_csv(run.folder / "history.csv")
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history["learning_rate"].iloc[-1] < history["learning_rate"].iloc[0]  # set through the loss's scale
    network = keras.saving.load_model(run.folder / "model.keras", compile=False)
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}

    class Killed(BaseException):
        pass

    def progress(step: str, done: int, total: int) -> None:
        if step.startswith("Epoch 4 "):
            raise Killed

    with pytest.raises(Killed):
        pretrain(wanted, drawn, tmp_path / "killed", now=NOW, options=replace(options, progress=progress))
    assert keras.config.dtype_policy().name == "float32"
    resumed = pretrain(wanted, drawn, tmp_path / "killed", now=NOW, options=options)
    assert resumed.fingerprint() == run.fingerprint()


def trained_weights(run: Run) -> list[np.ndarray]:
    return [each.numpy() for each in keras.saving.load_model(run.folder / "model.keras", compile=False).weights]


def test_the_rate_warms_up_and_then_falls_or_stays() -> None:
    steps, epochs, warmup, rate = 5, 4, 2, 0.01
    for schedule in ("cosine", "constant"):
        given = stage(schedule=schedule, learning_rate=rate, epochs=epochs, warmup_epochs=warmup)
        optimizer = make_optimizer(given, steps)
        for batch in range(steps * epochs):
            optimizer.iterations.assign(batch)
            done = (batch - warmup * steps) / (steps * (epochs - warmup))
            later = rate * (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else rate
            expected = rate * batch / (warmup * steps) if done < 0 else later
            assert float(optimizer.learning_rate) == pytest.approx(expected, abs=1e-8)


def test_gradients_of_two_batches_are_those_of_one_of_twice_the_size(
    pretrained: Run, drawn: Path, options: Options, tmp_path: Path
) -> None:
    found = []
    for name, size, more in (("whole", 16, ()), ("halves", 8, ("stages.1.accumulate=2",)), ("small", 8, ())):
        wanted = recipe("default-finetune", *FINETUNE, f"stages.1.batch_size={size}", *more)
        run = finetune(wanted, drawn, tmp_path / name, start=pretrained.folder, now=NOW, options=options)
        found.append(trained_weights(run))
    whole = found[0]
    apart = [max(np.abs(ours - theirs).max() for ours, theirs in zip(whole, each, strict=True)) for each in found[1:]]
    assert apart[0] < 1e-6 < 2e-5 < apart[1]


def test_too_few_batches_for_a_step_are_refused(drawn: Path, options: Options, tmp_path: Path) -> None:
    wanted = recipe("default-pretrain", *PRETRAIN, "stages.1.epochs=2", "stages.1.accumulate=9")
    with pytest.raises(RunError, match="8 batches in all, and accumulate = 9"):
        pretrain(wanted, drawn, tmp_path / "run", now=NOW, options=options)


def test_the_averaged_weights_are_kept_and_training_goes_on_from_the_others(
    drawn: Path, options: Options, tmp_path: Path
) -> None:
    one_step = (*PRETRAIN, "stages.1.batch_size=64", "stages.1.schedule=constant", "stages.1.keep=last")

    def train(name: str, epochs: int, *more: str) -> Run:
        wanted = recipe("default-pretrain", *one_step, f"stages.1.epochs={epochs}", *more)
        return pretrain(wanted, drawn, tmp_path / name, now=NOW, options=options)

    after = [trained_weights(train(f"after{epochs}", epochs)) for epochs in (1, 2, 3)]
    averaged = train("averaged", 3, "stages.1.ema_momentum=0.6")
    names = [each.path for each in keras.saving.load_model(averaged.folder / "model.keras", compile=False).weights]
    for name, first, second, third, kept in zip(names, *after, trained_weights(averaged), strict=True):
        is_trained = "moving" not in name
        expected = 0.6 * (0.6 * first + 0.4 * second) + 0.4 * third if is_trained else third
        np.testing.assert_allclose(kept, expected, atol=1e-6, err_msg=name)
    histories = [pd.read_csv(tmp_path / name / "history.csv") for name in ("averaged", "after3")]
    np.testing.assert_allclose(*(each["loss"] for each in histories), rtol=1e-6)
    assert histories[0]["val_loss"].iloc[-1] != histories[1]["val_loss"].iloc[-1]


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_accumulation_averages_and_warm_up_resume(
    precision: str, drawn: Path, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "check_precision", lambda compute: None)  # a CPU computes it too, slowly
    wanted = recipe(
        "default-pretrain", *PRETRAIN, f"compute.precision={precision}", "stages.1.epochs=4", "stages.1.accumulate=3",
        "stages.1.ema_momentum=0.8", "stages.1.warmup_epochs=2", "stages.1.keep=last",
    )  # fmt: skip
    run = pretrain(wanted, drawn, tmp_path / "run", now=NOW, options=options)

    class Killed(BaseException):
        pass

    def progress(step: str, done: int, total: int) -> None:
        if step.startswith("Epoch 3 "):
            raise Killed

    with pytest.raises(Killed):
        pretrain(wanted, drawn, tmp_path / "killed", now=NOW, options=replace(options, progress=progress))
    resumed = pretrain(wanted, drawn, tmp_path / "killed", now=NOW, options=options)
    assert resumed.fingerprint() == run.fingerprint()


def test_without_gpus_there_is_one_device() -> None:
    for name in ("auto", "cpu", "all"):
        strategy = choose_strategy(Compute().model_copy(update={"devices": name}))
        assert isinstance(strategy, tf.distribute.OneDeviceStrategy)


def test_precision_is_put_back_and_float16_needs_a_gpu() -> None:
    with device_scope(Compute(precision="mixed_bfloat16"), seed=0):
        assert build("tiny", size=64).get_layer("conv1").compute_dtype == "bfloat16"
        assert build("tiny", size=64).get_layer("logit").compute_dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
    with pytest.raises(RunError, match="GPU"), device_scope(Compute(precision="mixed_float16"), seed=0):
        pass


def test_the_verbs_from_the_shell(drawn: Path, options: Options, tmp_path: Path) -> None:
    runner = CliRunner()

    def call(*arguments: object) -> dict[str, Any]:
        result = runner.invoke(app, [str(each) for each in arguments])
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    sets = [word for override in (*PRETRAIN, "stages.1.epochs=1") for word in ("--set", override)]
    assert call("cache", drawn, "-o", options.cache, "--set", "pixels.size=64", "--json")["images"] == 64
    run = tmp_path / "run"
    call("pretrain", drawn, "-o", run, "--cache", options.cache, "--weights", "random", "--seed", 4, "--json", *sets)
    assert open_run(run).recipe.seed == 4
    sets = [word for override in FINETUNE for word in ("--set", override)]
    call("finetune", drawn, "--from", run, "-o", tmp_path / "tuned", "--cache", options.cache, "--json", *sets)
    made = call("package", tmp_path / "tuned", "--replicates", 100, "--json")
    assert load_package(tmp_path / "tuned" / "package").fingerprint == made["fingerprint"]
