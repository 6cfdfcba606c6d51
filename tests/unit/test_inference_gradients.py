"""Grad-CAM: where there is an exact map to compare with, it is that map; everywhere it is named as what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from cxr.labels import FINDINGS
from cxr.package import ModelPackage, Outputs, PackageClass, write_package
from cxr.pixels.recipe import PixelRecipe
from inference.model.model import Model
from inference.report.evidence_map import Method
from training.networks import Head, build

Repackage = Callable[..., ModelPackage]


def image(seed: int = 0, size: int = 64) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((size, size, 1), dtype=np.float32)


@pytest.fixture
def packaged(tmp_path: Path, tiny_package: Callable[..., ModelPackage]) -> Repackage:
    """Put a graph without an evidence output into a package."""

    def make(graph: Any, classes: int = 1, size: int = 64) -> ModelPackage:
        source = tiny_package()
        graph.save(tmp_path / "model.keras")
        names = list(FINDINGS)[:classes]
        changes = {
            "outputs": Outputs(evidence=None),
            "classes": tuple(PackageClass(finding=name, code=FINDINGS[name].code) for name in names),
            "recipe": PixelRecipe(size=size),
            "activation": "sigmoid" if classes == 1 else "softmax",
        }
        return write_package(
            tmp_path / "package",
            source.manifest.model_copy(update=changes),
            {"model.keras": tmp_path / "model.keras", "MODEL_CARD.md": source.folder / "MODEL_CARD.md"},
        )

    return make


@pytest.mark.parametrize("classes", [1, 3])
def test_of_a_linear_head_it_is_the_exact_map(packaged: Repackage, classes: int) -> None:
    activation = "sigmoid" if classes == 1 else "softmax"
    keras.utils.set_random_seed(3)
    graph = build("tiny", size=64, classes=classes, activation=activation, head=Head("dense"))
    head = graph.get_layer("logit")
    head.bias.assign(np.linspace(-1, 1, classes))
    head.kernel.assign(np.random.default_rng(0).normal(0.2, 1, (32, classes)))
    features = np.asarray(keras.Model(graph.input, graph.get_layer("relu3").output)(image()[None]))[0]
    maps = Model.load(packaged(graph, classes), device="cpu").grad_cam(image())
    assert maps is not None
    assert maps.shape == (4, 4, classes)
    # What a 1 x 1 convolution with these weights would show; the logit is its mean over 16 places.
    np.testing.assert_allclose(maps, np.maximum(features @ np.asarray(head.kernel), 0) / 16, atol=1e-7)
    assert maps.max() > 1e-3


@pytest.mark.parametrize(
    ("architecture", "head", "shape"),
    [
        ("resnet50", Head("dense", pooling="maximum", hidden=(16,)), (2, 2)),
        ("vgg16", Head("dense", pooling="average4", hidden=(8,), dropout=0.5), (8, 8)),
        ("resnet18", Head("dense", hidden=()), (2, 2)),
        pytest.param("densenet169", Head("dense", pooling="flatten", hidden=(8,)), (2, 2), marks=pytest.mark.long),
    ],
)
def test_every_predecessors_graph_has_one(
    packaged: Repackage, architecture: str, head: Head, shape: tuple[int, int]
) -> None:
    size = 128 if architecture == "vgg16" else 64
    keras.utils.set_random_seed(1)
    graph = build(architecture, size=size, classes=2, activation="softmax", head=head)
    maps = Model.load(packaged(graph, 2, size), device="cpu").grad_cam(image(size=size))
    assert maps is not None
    assert maps.shape == (*shape, 2)
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() > 0


def test_a_dense_layer_with_its_activation_inside_will_do(packaged: Repackage) -> None:
    given = keras.Input((64, 64, 1))
    features = keras.layers.Conv2D(4, 3, strides=4, name="features", kernel_initializer="ones")(given)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    head = keras.layers.Dense(1, activation="sigmoid", kernel_initializer="ones", name="prob")
    graph = keras.Model(given, head(pooled))
    head.bias.assign([-16.0])
    maps = Model.load(packaged(graph), device="cpu").grad_cam(image())
    seen = np.asarray(keras.Model(given, features)(image()[None]))[0]
    expected = np.maximum(seen @ np.asarray(head.kernel), 0)
    assert maps is not None
    np.testing.assert_allclose(maps / maps.max(), expected / expected.max(), atol=1e-5)


def test_a_bright_spot_is_found_where_it_is(packaged: Repackage) -> None:
    given = keras.Input((64, 64, 1))
    features = keras.layers.Conv2D(1, 8, strides=8, kernel_initializer="ones", activation="relu")(given)
    pooled = keras.layers.GlobalMaxPooling2D()(features)
    logit = keras.layers.Dense(1, kernel_initializer="ones")(pooled)
    graph = keras.Model(given, keras.layers.Activation("sigmoid", name="prob")(logit))
    spot = np.zeros((64, 64, 1), np.float32)
    spot[40:48, 16:24] = 0.02
    maps = Model.load(packaged(graph), device="cpu").grad_cam(spot)
    assert maps is not None
    assert np.unravel_index(maps[..., 0].argmax(), maps.shape[:2]) == (5, 2)
    assert (maps > 0).sum() == 1


def test_a_graph_that_learnt_no_features_has_none(packaged: Repackage) -> None:
    given = keras.Input((64, 64, 1))
    flat = keras.layers.Flatten()(keras.layers.Rescaling(2.0)(given))
    graph = keras.Model(given, keras.layers.Dense(1, activation="sigmoid", name="prob")(flat))
    model = Model.load(packaged(graph), device="cpu")
    assert model.grad_cam(image()) is None
    assert model.grad_cam(image()) is None


def test_the_package_says_which_method(packaged: Repackage, tiny_package: Callable[..., ModelPackage]) -> None:
    assert Method.of(tiny_package().manifest) is Method.EVIDENCE
    assert Method.of(packaged(build("tiny", size=64, head=Head("dense"))).manifest) is Method.GRAD_CAM
