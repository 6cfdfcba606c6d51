"""The default model's manifests keep apart what must be; its recipes run one after the other."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

from cxr.errors import RecipeError, RunError
from training.cases import assert_disjoint, write_manifest
from training.metrics.auc import roc_auc
from training.networks import build
from training.recipe import load_recipe
from training.runs.folder import Run
from training.runs.freezing import head_layers, set_trainable
from training.runs.head_regression import fit_head
from training.runs.train import Options, finetune, pretrain
from training.shipped.manifests import FOLDS, manifests, read_films

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TINY = ("network.architecture=tiny", "pixels.detail=40", "stages.0.batch_size=4", "compute.precision=float32")

COVID, COLLECTION = "COVID-19 Image Repository, a hospital", "COVID-CXNet, a collection"
NIH, KERMANY, COHEN = (
    "NIH ChestX-ray14 (2017)",
    "Kermany et al. 2018, a copy",
    "ieee8023/covid-chestxray-dataset (2020)",
)
FILMS = (
    (COVID, "covid19", 20, "CC BY 3.0"),
    (COLLECTION, "covid19", 20, "CC BY 4.0 (compilation); gathered from public sources"),
    (NIH, "normal", 30, "NIH Clinical Center: no restrictions"),
    (NIH, "other_pneumonia", 14, "NIH Clinical Center: no restrictions"),
    (KERMANY, "normal", 10, "CC BY 4.0"),
    (KERMANY, "viral_pneumonia", 12, "CC BY 4.0"),
    (KERMANY, "bacterial_pneumonia", 12, "CC BY 4.0"),
    (COHEN, "covid19", 6, "CC BY-NC-SA"),
    (COHEN, "other_pneumonia", 4, "CC BY-SA"),
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared table's columns, with drawn films; some must not be used."""
    folder = tmp_path_factory.mktemp("shared")
    random = np.random.default_rng(0)
    rows = []
    for source, finding, count, licence in FILMS:
        for number in range(count):
            short = source.split(",")[0][-10:].strip().replace(" ", "_").replace("/", "_")
            file = f"{short}-{finding}-{number}.png"
            cv2.imwrite(str(folder / file), random.integers(0, 255, (48, 40), dtype=np.uint8))
            rows.append({
                "file": file, "finding": finding, "view": "PA", "patient_id": f"{short}{number // 2}",
                "source_dataset": source, "licence": licence, "is_frontal": "yes", "label_conflict": "no", "age": "50",
                "sex": "F",
            })  # fmt: skip
    rows[0]["label_conflict"] = "yes"
    rows[1]["is_frontal"] = "no"
    rows[3]["licence"] = "CC BY-NC-SA 4.0"
    rows[-1]["patient_id"] = rows[5]["patient_id"]  # seen by Cohen too
    path = folder / "images.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def made(table: Path) -> dict[str, pd.DataFrame]:
    return manifests(read_films(table))


def test_nothing_is_trained_on_that_must_not_be(made: dict[str, pd.DataFrame]) -> None:
    cohen = made["cohen"]
    assert set(cohen["split"]) == {"test"} and len(cohen) == 10
    for name, frame in made.items():
        if name != "cohen":
            assert "cohen" not in set(frame["source"])
            assert not frame["licence"].str.contains("NC").any()
            assert not set(frame["patient_id"]) & set(cohen["patient_id"])
            assert_disjoint(frame)
    used = set(made["covid"]["image_id"])
    assert not {f"Repository-covid19-{number}.png" for number in (0, 1, 3)} & used


def test_every_run_divides_the_films_in_one_way(made: dict[str, pd.DataFrame]) -> None:
    sides = made["covid"].set_index("image_id")["split"]
    for name in ("trunk", "trunk-nih", "trunk-kermany", "four"):
        frame = made[name].set_index("image_id")
        assert (sides[frame.index] == frame["split"]).all()
    assert set(made["trunk-nih"]["source"]) == {"nih"}
    # Patients of this collection are not known: it is on no side that anything is said of.
    assert set(sides[made["covid"]["source"].to_numpy() == "cxnet"]) == {"train"}


def test_a_fold_is_asked_about_a_pair_of_sources_that_it_has_not_seen(made: dict[str, pd.DataFrame]) -> None:
    for pair in FOLDS:
        frame = made[f"fold-{'-'.join(pair)}"]
        assert set(frame.loc[frame["split"] == "test", "source"]) == set(pair)
        assert not set(frame.loc[frame["split"] != "test", "source"]) & set(pair)
        for side in ("train", "val"):
            assert len(set(frame.loc[frame["split"] == side, "label"] == "covid19")) == 2


def test_normal_and_other_films_weigh_the_same_inside_a_source(made: dict[str, pd.DataFrame]) -> None:
    frame = made["covid"]
    for source in ("nih", "kermany"):
        part = frame[frame["source"] == source]
        is_normal = part["label"] == "normal"
        assert part.loc[is_normal, "weight"].sum() == pytest.approx(part.loc[~is_normal, "weight"].sum(), rel=1e-4)


def test_one_command_says_what_is_missing(root: Path, tmp_path: Path) -> None:
    import subprocess

    ended = subprocess.run(
        [root / "configs" / "default-model.sh", tmp_path / "images.csv", tmp_path / "runs"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "shared films are missing" in ended.stderr and "FILMS=" in ended.stderr
    assert not (tmp_path / "runs").exists()


def test_the_recipes_run_one_after_the_other(made: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    for name in ("trunk", "covid", "four"):
        write_manifest(made[name], tmp_path / f"{name}.csv")
    options = Options(cache=tmp_path / "cache", processes=1)

    def go_on(name: str, cases: str, start: Run, *more: str) -> Run:
        recipe = load_recipe(f"default-model-{name}", (*TINY, "pixels.size=48", "stages.0.epochs=1", *more))
        return finetune(recipe, tmp_path / cases, tmp_path / name, start=start.folder, now=NOW, options=options)

    low = load_recipe("default-model-trunk", (*TINY, "pixels.size=32", "stages.0.epochs=1"))
    trunk = pretrain(low, tmp_path / "trunk.csv", tmp_path / "low", now=NOW, options=options)
    trunk = go_on("trunk-224", "trunk.csv", trunk)
    with pytest.raises(RunError, match="pixel recipe"):
        go_on("covid", "covid.csv", trunk, "pixels.margin=0.1")
    covid = go_on("covid", "covid.csv", trunk)
    four = go_on("four", "four.csv", covid)
    first, second = (keras.saving.load_model(run.folder / "model.keras", compile=False) for run in (covid, four))
    for layer in first.layers:
        if layer.name not in head_layers(first):  # one trunk, byte for byte
            for one, other in zip(layer.get_weights(), second.get_layer(layer.name).get_weights(), strict=True):
                assert one.tobytes() == other.tobytes()
    assert second.get_layer("prob").output.shape == (None, 4)


def test_the_statistics_of_batch_norm_follow_as_fast_as_a_stage_says() -> None:
    network = build("resnet18", size=32)
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    stage = load_recipe("default-model-trunk-224").stages[0]
    set_trainable(network, "resnet18", stage)
    assert {layer.momentum for layer in norms} == {stage.batch_norm_momentum} == {0.9}
    set_trainable(network, "resnet18", load_recipe("default-model-conv5").stages[0])
    assert not any(layer.trainable for layer in norms)


def test_a_head_by_regression_is_the_layer_that_gives_its_logits() -> None:
    random = np.random.default_rng(0)
    features = random.normal(3, [1, 0.1, 5, 2], (200, 4)).astype(np.float32)
    truths = (features[:, [1]] > 3).astype(np.float32)
    kernel, bias = fit_head(features, truths, np.ones(200, np.float32), 1.0)
    assert kernel.shape == (1, 1, 4, 1) and bias.shape == (1,) and kernel.dtype == np.float32
    logits = features @ kernel[0, 0] + bias
    assert roc_auc(truths[:, 0] > 0.5, logits[:, 0]) > 0.98
    weak, _ = fit_head(features, truths, np.ones(200, np.float32), 1e-4)
    assert np.abs(weak).max() < 0.1 * np.abs(kernel).max()
    three = np.eye(3, dtype=np.float32)[np.digitize(features[:, 0], (2.5, 3.5))]
    kernel, bias = fit_head(features, three, np.ones(200, np.float32), 100.0)
    assert kernel.shape == (1, 1, 4, 3)
    assert ((features @ kernel[0, 0] + bias).argmax(axis=1) == three.argmax(axis=1)).mean() > 0.95


def test_a_regression_is_of_a_head_alone() -> None:
    for wrong in ("stages.0.train=conv5", "stages.0.epochs=2", "stages.0.optimizer=adam", "network.head=dense"):
        with pytest.raises(RecipeError):
            load_recipe("default-model-covid", [wrong])
