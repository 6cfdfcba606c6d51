"""The input gate: set by training, applied by the service, and it says what it says to exactly these images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis
from typer.testing import CliRunner

from app.cli import app
from cxr.errors import DamagedPackage, IncompatiblePackage
from cxr.package import ModelPackage, write_package
from cxr.package.input_gate import (
    ARRAYS,
    Conformal,
    ConformalThresholds,
    FeatureSpace,
    component_of,
    is_unsure,
    read_space,
)
from cxr.package.lung_mask import GraphInput
from inference.model.model import Model
from inference.worker.image_warnings import InputGate
from training.networks import Head, build, features_of
from training.packaging.input_gate import fit_conformal, fit_space, gate_component

Batch = NDArray[np.float32]


def smooth(count: int, seed: int = 0) -> Batch:
    """Pictures of a kind: soft blobs in the middle greys."""
    noise = np.random.default_rng(seed).random((count, 64, 64), dtype=np.float32)
    return np.stack([cv2.GaussianBlur(each, (0, 0), 6) for each in noise])[..., None]


def strange(count: int) -> Batch:
    """Pictures of another kind: black and white stripes."""
    stripes = np.zeros((count, 64, 64, 1), np.float32)
    stripes[:, :, ::2] = 1
    return stripes


@dataclass
class Gated:
    package: ModelPackage
    network: Any


@pytest.fixture(params=["evidence", "dense"])
def gated(request: Any, tmp_path: Path, tiny_package: Callable[..., ModelPackage]) -> Gated:
    keras.utils.set_random_seed(1)
    network = build("tiny", size=64, head=Head(request.param))
    conformal = Conformal(alpha=0.1, classes={"covid19": ConformalThresholds(yes=0.6, no=0.2)})
    components, files = gate_component(
        network, features_of(network, smooth(200)), features_of(network, smooth(100, seed=1)), conformal
    )
    source = tiny_package().manifest
    outputs = source.outputs.model_copy(update={} if request.param == "evidence" else {"evidence": None})
    network.save(tmp_path / "model.keras")
    contents = {"model.keras": tmp_path / "model.keras", "MODEL_CARD.md": b"# card", **files}
    manifest = source.model_copy(update={"components": components, "outputs": outputs})
    return Gated(write_package(tmp_path / "package", manifest, contents), network)


def test_serving_sees_the_features_that_training_saw(gated: Gated) -> None:
    batch = smooth(5, seed=2)
    output = Model.load(gated.package, device="cpu").score(batch)
    assert output.features is not None
    np.testing.assert_allclose(output.features, features_of(gated.network, batch), atol=1e-6)
    assert output.probabilities.shape == (5, 1)
    assert (output.evidence is None) == (gated.package.manifest.outputs.evidence is None)


def test_images_of_another_kind_are_outliers(gated: Gated) -> None:
    model, gate = Model.load(gated.package, device="cpu"), InputGate.of(gated.package)

    def outliers(batch: Batch) -> int:
        output = model.score(batch)
        return sum(
            "outlier" in gate.warnings(GraphInput(batch[row], batch[row]), output, row, shape=None)
            for row in range(len(batch))
        )

    assert outliers(strange(3)) == 3
    assert outliers(smooth(100, seed=3)) <= 5  # set to warn of 1 in 200


def test_a_package_without_a_gate_is_checked_for_quality_alone(tiny_package: Callable[..., ModelPackage]) -> None:
    batch = np.zeros((1, 64, 64, 1), np.float32)
    output = Model.load(tiny_package(), device="cpu").score(batch)
    assert output.features is None
    assert InputGate.of(tiny_package()).warnings(GraphInput(batch[0], batch[0]), output, 0, shape=(100, 300)) == (
        "clipped",
        "aspect",
        "flat",
    )


def test_cxr_score_says_it(gated: Gated, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "film.png"), (strange(1)[0] * 255).astype(np.uint8))
    command = [
        "--set",
        f"data_dir={tmp_path / 'var'}",
        "--set",
        "view.pixels=off",
        "score",
        str(tmp_path / "film.png"),
        "--json",
    ]
    done = CliRunner().invoke(app, [*command, "--package", str(gated.package.folder)])
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)
    assert row["warnings"] == ["clipped", "flat", "outlier", *(["unsure"] if 0.2 < row["score"] < 0.4 else [])]


def test_the_distance_is_mahalanobis_where_no_axis_is_left_out() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6))
    space = fit_space(features)
    assert space.axes.shape == (6, 6)
    inverse = np.linalg.inv(np.cov(features.T))
    expected = [mahalanobis(row, features.mean(axis=0), inverse) for row in features[:20]]
    np.testing.assert_allclose(space.distances(features[:20].astype(np.float32)), expected, rtol=1e-3)


def test_what_the_axes_leave_out_counts_too() -> None:
    features = np.zeros((100, 3))
    features[:, 0] = np.linspace(-1, 1, 100)
    space = fit_space(features)
    assert space.axes.shape == (1, 3)
    along, across = space.distances(np.array([[1, 0, 0], [0, 0.1, 0]], np.float32))
    assert along < 2
    assert across > 10


@pytest.mark.parametrize("features", [np.zeros((1, 4)), np.zeros((5, 4)), np.zeros(4)])
def test_images_that_do_not_differ_set_no_gate(features: Any) -> None:
    with pytest.raises(ValueError, match="features"):
        fit_space(features)


def test_the_file_is_read_as_it_was_written_and_is_always_the_same(tmp_path: Path) -> None:
    space = fit_space(np.random.default_rng(0).normal(size=(40, 5)))
    path = tmp_path / "input-gate.npz"
    path.write_bytes(space.to_bytes())
    assert space.to_bytes() == path.read_bytes()
    read = read_space(path)
    np.testing.assert_array_equal(read.axes, space.axes)
    assert read.rest == pytest.approx(space.rest)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x05\x06" + bytes(18),
        FeatureSpace(np.zeros(3, "f4"), np.zeros((2, 4), "f4"), np.ones(2, "f4"), 1.0).to_bytes(),
        FeatureSpace(np.zeros(3, "f4"), np.zeros((2, 3), "f4"), np.zeros(2, "f4"), 1.0).to_bytes(),
        FeatureSpace(np.full(3, np.nan, "f4"), np.zeros((2, 3), "f4"), np.ones(2, "f4"), 1.0).to_bytes(),
        FeatureSpace(np.zeros(3, "f4"), np.zeros((2, 3), "f4"), np.ones(2, "f4"), 0.0).to_bytes(),
    ],
)
def test_a_file_of_something_else_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "input-gate.npz").write_bytes(content)
    with pytest.raises(DamagedPackage):
        read_space(tmp_path / "input-gate.npz")


class _Bomb:
    """What does something as soon as it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


def test_an_array_that_would_run_code_when_it_is_unpickled_is_refused(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "input-gate.npz"
    np.savez(path, **{name: np.array([_Bomb(mark)], object) for name in ARRAYS})
    with pytest.raises(DamagedPackage):
        read_space(path)
    assert not mark.exists()
    np.load(path, allow_pickle=True)["mean"]
    assert mark.exists(), "it would have"


@pytest.mark.parametrize(
    "changes",
    [
        {"distance": -1.0},
        {"surprise": 1},
        {"conformal": {"alpha": 0.1, "classes": {"stranger": {"yes": 0.5, "no": 0.5}}}},
        {"conformal": {"alpha": 0.1, "classes": {"covid19": {"yes": 0.5}}}},
    ],
)
def test_a_component_that_does_not_fit_is_refused(
    tiny_package: Callable[..., ModelPackage], changes: dict[str, Any]
) -> None:
    good = {"layer": "relu3", "distance": 3.0, "quantile": 0.995, "images": 10}
    manifest = tiny_package().manifest
    assert component_of(manifest.model_copy(update={"components": {"input-gate": good}})) is not None
    with pytest.raises(IncompatiblePackage, match="input-gate"):
        component_of(manifest.model_copy(update={"components": {"input-gate": good | changes}}))


def test_a_layer_that_the_graph_lacks_is_refused(tmp_path: Path, tiny_package: Callable[..., ModelPackage]) -> None:
    source = tiny_package()
    component = {"layer": "conv9", "distance": 3.0, "quantile": 0.995, "images": 10}
    manifest = source.manifest.model_copy(update={"components": {"input-gate": component}})
    contents = {name: source.folder / name for name in source.manifest.files}
    package = write_package(tmp_path / "package", manifest, contents)
    with pytest.raises(IncompatiblePackage, match="input gate names"):
        Model.load(package, device="cpu")


@pytest.mark.parametrize(
    ("probability", "expected"),
    [(0.1, False), (0.2, False), (0.3, True), (0.4, False), (0.9, False)],  # no, no, neither, yes, yes
)
def test_a_score_between_the_answers_is_unsure(probability: float, expected: bool) -> None:
    conformal = Conformal(alpha=0.1, classes={"covid19": ConformalThresholds(yes=0.6, no=0.2)})
    assert is_unsure(conformal, {"covid19": probability}, is_softmax=False) is expected


def test_a_score_that_fits_both_answers_is_unsure_too() -> None:
    conformal = Conformal(alpha=0.1, classes={"covid19": ConformalThresholds(yes=0.7, no=0.6)})
    assert is_unsure(conformal, {"covid19": 0.5}, is_softmax=False)
    assert not is_unsure(conformal, {"covid19": 0.65}, is_softmax=False)


def test_of_classes_that_exclude_each_other_exactly_one_has_to_be_possible() -> None:
    classes = {"normal": ConformalThresholds(yes=0.5), "covid19": ConformalThresholds(yes=0.5)}
    conformal = Conformal(alpha=0.1, classes=classes)
    assert not is_unsure(conformal, {"normal": 0.9, "covid19": 0.1}, is_softmax=True)
    assert is_unsure(conformal, {"normal": 0.5, "covid19": 0.5}, is_softmax=True)  # both
    assert is_unsure(conformal, {"normal": 0.4, "covid19": 0.3}, is_softmax=True)  # neither


@pytest.mark.parametrize("is_softmax", [False, True])
def test_the_sets_hold_the_truth_as_often_as_promised(is_softmax: bool) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 4000)
    positive = 1 / (1 + np.exp(-rng.normal(np.where(truth, 1.0, -1.0), 1.5)))
    probabilities = np.column_stack([1 - positive, positive]) if is_softmax else positive[:, None]
    names = ("normal", "covid19") if is_softmax else ("covid19",)
    labels = truth if is_softmax else truth[:, None]
    conformal = fit_conformal(labels[:2000], probabilities[:2000], names, is_softmax=is_softmax, alpha=0.1)
    assert conformal is not None
    odd = conformal.classes["covid19"]
    missed_positives = (1 - positive[2000:] > odd.yes)[truth[2000:] == 1].mean()
    bound = conformal.classes["normal"].yes if is_softmax else odd.no
    assert bound is not None
    missed_negatives = (positive[2000:] > bound)[truth[2000:] == 0].mean()
    for missed in (missed_positives, missed_negatives):
        assert 0.07 < missed < 0.13


def test_too_few_cases_promise_nothing() -> None:
    truth = np.array([1] * 8 + [0] * 20)[:, None]  # 9 are needed for 1 in 10
    assert fit_conformal(truth, np.full((28, 1), 0.5), ("covid19",), is_softmax=False) is None
    truth[8] = 1
    assert fit_conformal(truth, np.full((28, 1), 0.5), ("covid19",), is_softmax=False) is not None
