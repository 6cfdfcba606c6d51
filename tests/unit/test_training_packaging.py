"""A trained run's package: it holds everything that promotion judges, and what is good is promoted as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

from config.settings import GateSettings
from cxr.domain import PackageStatus
from cxr.errors import PackageError, RunError
from cxr.package import ModelPackage
from cxr.package.golden_images import read_golden
from inference.registry import Gates, Registry
from inference.registry.golden_check import golden_difference
from training.evaluation import read_predictions
from training.files import sha256_of
from training.metrics.auc import roc_auc_with_interval
from training.networks import Head, build, feature_layer, features_of
from training.packaging import build as packaging
from training.packaging import image_checks
from training.packaging.build import package_run
from training.recipe import load_recipe
from training.runs.ensemble import join_networks
from training.runs.folder import Run
from training.runs.train import Options, pretrain

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
COUNT = 240
TINY = (
    "network.architecture=tiny", "pixels.size=64", "weights.source=random", 'task.classes=["covid19"]',
    "split.fractions=[0.5,0.25,0.25]", "stages.0.batch_size=8", "stages.1.batch_size=8",
    "stages.1.learning_rate=0.01", "stages.1.epochs=6", "augment.cut_out=0.0",
)  # fmt: skip


@dataclass(frozen=True)
class Trained:
    run: Run
    options: Options
    package: ModelPackage


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, draw_cases: Callable[..., Path]) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    sexes, views = ["F", "F", "M", "M"] * (COUNT // 4), (["PA"] * 4 + ["AP"] * 4) * (COUNT // 8)
    manifest = draw_cases(folder / "images", COUNT, sex=sexes, view=views)
    options = Options(cache=folder / "cache", processes=1)
    run = pretrain(load_recipe("default-pretrain", TINY), manifest, folder / "run", now=NOW, options=options)
    return Trained(run, options, package_run(run.folder, folder / "package", replicates=100, options=options))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models", gates=Gates(GateSettings(), golden_difference))


def promote(registry: Registry, package: ModelPackage) -> str:
    fingerprint = registry.add(package.folder).fingerprint
    gates = registry.check_gates(registry.load(fingerprint))
    assert [(gate.name, gate.figure) for gate in gates if not gate.is_passed] == []
    return registry.promote(fingerprint, now=NOW, actor="tester", reason="a test").fingerprint


def test_a_good_run_is_promoted_as_it_is(trained: Trained, registry: Registry) -> None:
    fingerprint = promote(registry, trained.package)
    assert fingerprint == trained.package.fingerprint
    assert registry.active().manifest.status is PackageStatus.EVALUATED


def test_its_successor_is_compared_with_it_and_promoted_too(
    trained: Trained, registry: Registry, tmp_path: Path
) -> None:
    promote(registry, trained.package)
    second = pretrain(
        load_recipe("default-pretrain", (*TINY, "seed=1")),
        trained.run.folder / "manifest.csv",
        tmp_path / "second",
        now=NOW,
        options=trained.options,
    )

    def pack(name: str, *rivals: Path) -> ModelPackage:
        return package_run(second.folder, tmp_path / name, replicates=100, options=trained.options, compare_with=rivals)

    alone = pack("alone")
    assert "not_worse" in [gate.name for gate in registry.check_gates(registry.add(alone.folder)) if not gate.is_passed]
    compared = pack("compared", tmp_path / "models" / "current", trained.run.folder)
    promote(registry, compared)
    as_package, as_run = compared.manifest.evaluation["comparisons"]
    assert as_package["model_sha256"] == sha256_of(trained.package.model_path)
    assert as_package["classes"] == as_run["classes"]
    figures = as_package["classes"]["covid19"]
    areas = []
    for run in (second, trained.run):
        table = read_predictions(run.folder / "predictions_test.csv")
        estimate = roc_auc_with_interval(table.truth("covid19"), table.score("covid19"))
        assert estimate is not None
        areas.append(estimate.value)
    assert figures["difference"] == pytest.approx(areas[0] - areas[1], abs=1e-6)
    assert figures["low"] <= figures["difference"] <= figures["high"]


def test_what_cannot_be_compared_is_refused_before_the_work(
    trained: Trained, tmp_path: Path, tiny_package: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaging, "evaluate", lambda *_, **__: pytest.fail("it has begun"))
    other = tiny_package("normal")
    with pytest.raises(RunError, match=r"not there: .*var/models/current"):
        package_run(trained.run.folder, tmp_path / "one", options=trained.options, compare_with=[tmp_path / "absent"])
    with pytest.raises(RunError, match="no such run"):
        package_run(tmp_path / "absent", tmp_path / "one")
    with pytest.raises(RunError, match="none of the classes covid19"):
        package_run(trained.run.folder, tmp_path / "one", options=trained.options, compare_with=[other.folder])
    with pytest.raises(RunError, match="not a training run"):
        package_run(trained.run.folder, tmp_path / "one", options=trained.options, compare_with=[tmp_path])
    with pytest.raises(PackageError, match="exists"):
        package_run(trained.run.folder, trained.package.folder, options=trained.options)
    assert not (tmp_path / "one").exists()


def test_it_says_that_patients_are_apart_and_what_tells_the_labels(trained: Trained) -> None:
    evaluation = trained.package.manifest.evaluation
    assert evaluation["patients_disjoint"] is True
    assert evaluation["is_image_wise"] is False
    assert set(evaluation["labels"]) == {"covid19", "normal"}
    assert evaluation["labels"]["covid19"]["source_only_auc"] == 0.5
    card = (trained.package.folder / "MODEL_CARD.md").read_text()
    assert "covid19 without lungs" in card
    assert "patients on two sides" in card


@pytest.mark.parametrize(("column", "expected"), [("patient_id", {"patients_disjoint": False}),
                                                  ("image_wise", {"is_image_wise": True})])  # fmt: skip
def test_patients_on_two_sides_or_unknown_are_said(
    trained: Trained, tmp_path: Path, column: str, expected: dict[str, bool]
) -> None:
    run = copied(trained.run, tmp_path / "run")
    manifest = pd.read_csv(run / "manifest.csv", dtype=str, keep_default_na=False)
    if column == "patient_id":
        manifest.loc[manifest["split"] == "test", "patient_id"] = manifest.loc[0, "patient_id"]
    else:
        manifest["image_wise"] = "yes"
    manifest.to_csv(run / "manifest.csv", index=False)
    package = package_run(run, tmp_path / "package", replicates=100, options=trained.options)
    assert {name: package.manifest.evaluation[name] for name in expected} == expected


def test_the_model_sees_nothing_without_lungs(trained: Trained) -> None:
    figures = trained.package.manifest.evaluation["blanked_lungs"]["covid19"]
    assert figures["auc_low"] <= 0.5 <= figures["auc_high"]
    assert (figures["images"], figures["masks"]) == (60, 0)


def test_lungs_are_where_the_masks_say(trained: Trained, tmp_path: Path) -> None:
    """Masks beside the bright spots leave them in the picture: the model recognises them still."""
    import cv2

    run = copied(trained.run, tmp_path / "run")
    mask = np.zeros((80, 70), np.uint8)
    mask[:, :8] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    manifest = pd.read_csv(run / "manifest.csv", dtype=str, keep_default_na=False)
    manifest["mask_path"] = str(tmp_path / "mask.png")
    manifest.to_csv(run / "manifest.csv", index=False)
    package = package_run(run, tmp_path / "package", replicates=100, options=trained.options)
    figures = package.manifest.evaluation["blanked_lungs"]["covid19"]
    assert figures["masks"] == 60
    assert figures["auc"] > 0.9
    assert "separates the classes without lungs" in (package.folder / "MODEL_CARD.md").read_text()


def test_the_card_shows_what_the_model_gives_for_its_golden_images(trained: Trained) -> None:
    folder = trained.package.folder
    (line,) = [each for each in (folder / "MODEL_CARD.md").read_text().splitlines() if each.startswith("![")]
    assert line.startswith("![Evidence map for covid19](")
    name = line.rpartition("(")[2].rstrip(")")
    assert name in trained.package.manifest.files
    assert cv2.imread(str(folder / name)).shape[1] > 600  # pixels


def test_golden_images_and_gate_are_inside(trained: Trained) -> None:
    package = trained.package
    assert len(read_golden(package)) == 10
    assert golden_difference(package) < 1e-5
    component = package.manifest.components["input-gate"]
    assert component["images"] == 60
    assert component["conformal"]["alpha"] == 0.1
    document = json.loads((package.folder / "golden.json").read_text())
    first = [each["probabilities"][0] for each in document["images"]]
    assert first == sorted(first)


def test_of_many_images_some_are_drawn(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_checks, "MOST_IMAGES", {"train": 50, "val": 40, "test": 30})
    made = [package_run(trained.run.folder, tmp_path / name, replicates=100, options=trained.options) for name in "ab"]
    assert made[0].fingerprint == made[1].fingerprint
    assert made[0].manifest.components["input-gate"]["images"] == 40
    assert made[0].manifest.evaluation["blanked_lungs"]["covid19"]["images"] == 30


def test_images_that_are_gone_are_missed(trained: Trained, tmp_path: Path) -> None:
    run = copied(trained.run, tmp_path / "run")
    manifest = pd.read_csv(run / "manifest.csv", dtype=str, keep_default_na=False)
    manifest["path"] = [f"gone/{name}" for name in manifest["path"]]
    manifest.to_csv(run / "manifest.csv", index=False)
    with pytest.raises(RunError, match="train and val and test images can be read"):
        package_run(run, tmp_path / "package", options=Options(cache=tmp_path / "cache", processes=1))
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize("pooling", ["evidence", "maximum", "flatten"])
def test_an_ensembles_features_are_its_members_one_after_the_other(pooling: Any, tmp_path: Path) -> None:
    head = Head() if pooling == "evidence" else Head("dense", pooling, hidden=(4,))
    keras.utils.set_random_seed(3)
    members = [build("tiny", size=64, head=head) for _ in range(3)]
    said = "evidence" if pooling == "evidence" else "dense"
    recipe = load_recipe("default-pretrain", (*TINY, f"network.head={said}"))
    whole = join_networks(members, recipe)
    batch = np.random.default_rng(0).random((2, 64, 64, 1), dtype=np.float32)
    assert feature_layer(whole) == "features"
    each = [features_of(member, batch) for member in members]
    np.testing.assert_allclose(features_of(whole, batch), np.concatenate(each, axis=1), atol=1e-6)
    logits = [keras.Model(one.input, one.get_layer("logit").output)(batch).numpy() for one in members]
    given = keras.Model(whole.input, whole.get_layer("logit").output)(batch).numpy()
    np.testing.assert_allclose(given, np.mean(logits, axis=0), atol=1e-5)


def test_a_network_without_features_is_refused() -> None:
    image = keras.Input((8, 8, 1))
    with pytest.raises(RunError, match="no layer of features"):
        feature_layer(keras.Model(image, keras.layers.Flatten(name="all")(image)))


def copied(run: Run, folder: Path) -> Path:
    """Copy what a run ended in, without its cache."""
    folder.mkdir()
    for path in run.folder.iterdir():
        if path.is_file() and path.name != "audit.json":
            (folder / path.name).write_bytes(path.read_bytes())
    return folder
