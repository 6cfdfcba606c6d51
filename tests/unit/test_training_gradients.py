"""Grad-CAM in training: the textbook's sum where it can be written down, and the same map as the service's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

from cxr.package import ModelPackage
from cxr.package.grad_cam import grad_cam
from inference.model.grad_cam import load_explainer
from training.evaluation import tabulate
from training.networks import Head, build, feature_layer
from training.networks.grad_cam import grad_cam_maps
from training.plots.evidence_gallery import plot_gallery
from training.recipe import load_recipe
from training.runs.ensemble import join_networks

BATCH = np.random.default_rng(0).random((3, 64, 64, 1), dtype=np.float32)


def test_of_an_average_and_one_dense_layer_it_is_the_class_activation_map() -> None:
    """Zhou et al. 2016 is the special case: the gradient is the dense layer's weight over the map's area."""
    keras.utils.set_random_seed(1)
    network = build("tiny", size=64, head=Head("dense", "average"))
    maps = np.asarray(keras.Model(network.input, network.get_layer(feature_layer(network)).output)(BATCH))
    weights = network.get_layer("logit").kernel.numpy()[:, 0]
    expected = np.maximum((maps * weights).sum(axis=-1), 0) / (maps.shape[1] * maps.shape[2])
    np.testing.assert_allclose(grad_cam_maps(network, BATCH, 0), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("tiny", Head("dense", "maximum", hidden=(8,))),  # Emory's
        ("tiny", Head("dense", "average4", hidden=(8,), dropout=0.5)),  # VGG16's
        ("resnet18", Head("dense", "average")),
        ("tiny", Head("dense", "flatten", hidden=(8, 8))),  # DenseNet-169's
    ],
)
def test_it_is_what_the_service_shows(
    architecture: str, head: Head, tiny_package: Callable[..., ModelPackage], tmp_path: Path
) -> None:
    keras.utils.set_random_seed(2)
    network = build(architecture, size=64, classes=2, activation="softmax", head=head)
    network.save(tmp_path / "model.keras")
    manifest = tiny_package("normal", "covid19", activation="softmax").manifest
    explain = load_explainer(tmp_path / "model.keras", manifest, "cpu")
    assert explain is not None
    served = explain(BATCH)
    assert served.max() > 0
    for place in range(2):
        np.testing.assert_allclose(grad_cam_maps(network, BATCH, place), served[..., place], rtol=1e-3, atol=1e-7)


def test_of_an_ensemble_it_is_the_mean_over_its_members(
    tiny_package: Callable[..., ModelPackage], tmp_path: Path
) -> None:
    keras.utils.set_random_seed(4)
    members = [build("tiny", size=64, head=Head("dense", "average")) for _ in range(2)]
    overrides = ("network.architecture=tiny", "pixels.size=64", "weights.source=random", "network.head=dense",
                 'task.classes=["covid19"]')  # fmt: skip
    whole = join_networks(members, load_recipe("default-pretrain", overrides))
    raw = []
    for member in members:
        maps = np.asarray(keras.Model(member.input, member.get_layer(feature_layer(member)).output)(BATCH))
        raw.append((maps * member.get_layer("logit").kernel.numpy()[:, 0]).sum(axis=-1) / maps[0, ..., 0].size)
    expected = np.maximum(np.mean(raw, axis=0), 0)
    np.testing.assert_allclose(grad_cam_maps(whole, BATCH, 0), expected, rtol=1e-4, atol=1e-7)
    whole.save(tmp_path / "model.keras")
    explain = load_explainer(tmp_path / "model.keras", tiny_package("covid19").manifest, "cpu")
    assert explain is not None
    np.testing.assert_allclose(explain(BATCH)[..., 0], expected, rtol=1e-4, atol=1e-7)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        grad_cam(np.zeros((1, 2, 2, 3), np.float32), np.zeros((1, 2, 2, 4), np.float32))


def test_the_gallery_of_a_dense_head_says_that_it_is_an_approximation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.plots import evidence_gallery

    said: list[str] = []
    draw = evidence_gallery.plot_overlays

    def note(
        images: list[np.ndarray], maps: np.ndarray, captions: list[str], path: Path, title: str, **more: Any
    ) -> None:
        said.extend((title, more["unit"]))
        assert maps.min() >= 0
        assert maps.max() == 1
        draw(images, maps, captions, path, title, **more)

    monkeypatch.setattr(evidence_gallery, "plot_overlays", note)
    keras.utils.set_random_seed(2)
    build("tiny", size=64, head=Head("dense", "maximum", hidden=(8,))).save(tmp_path / "model.keras")
    recipe = load_recipe("default-pretrain", ("pixels.size=64",)).pixels
    names = [f"film{row}" for row in range(12)]
    for row, name in enumerate(names):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.random.default_rng(row).integers(0, 255, (70, 60), np.uint8))
    cases = pd.DataFrame({"image_id": names, "path": [str(tmp_path / f"{name}.png") for name in names]})
    logits = np.linspace(-2, 2, 12)[:, None]
    table = tabulate(
        cases, ["covid19"], logits=logits, probabilities=1 / (1 + np.exp(-logits)), truth=np.arange(12) % 2
    )
    plot_gallery(tmp_path / "model.keras", recipe, cases, table, "covid19", tmp_path / "gallery.png", threshold=0.5)
    assert "Grad-CAM" in said[0]
    assert "approximation" in said[0]
    assert "logits" not in said[1]
    assert cv2.imread(str(tmp_path / "gallery.png")) is not None
