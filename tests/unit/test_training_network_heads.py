"""The predecessors' trunks and heads have their own sizes, and are trained where they were."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cxr.errors import RunError
from training.networks import Head, build
from training.recipe import Stage, load_recipe
from training.runs import initial_weights
from training.runs.freezing import effective_stages, head_layers, set_trainable
from training.runs.initial_weights import IMAGENET, PublishedWeights, copy_weights, imagenet_file, verify_weights_file
from training.runs.train import pretrain


def stage(train: str = "conv5", batch_norm: str = "frozen", name: str = "one") -> Stage:
    return Stage(name=name, train=train, batch_norm=batch_norm, learning_rate=1e-3, epochs=1)  # type: ignore[arg-type]


def of_recipe(name: str) -> Any:
    recipe = load_recipe(name)
    return build(
        recipe.network.architecture,
        classes=len(recipe.task.classes),
        activation=recipe.task.activation,
        size=recipe.pixels.size,
        head=recipe.network.make_head(),
        scaling=recipe.network.scaling,
    )


def trainable(network: Any) -> int:
    return sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)


def test_emory_has_the_published_number_of_weights() -> None:
    network = of_recipe("emory-pretrain")
    assert network.output_names == ["prob"]
    assert network.count_params() == 24_637_313
    (only,) = load_recipe("emory-pretrain").stages
    set_trainable(network, "resnet50", only)
    assert trainable(network) == 16_025_601


@pytest.mark.parametrize(
    ("train", "count"),
    [("head", 0), ("conv5", 14_953_472), ("conv4", 22_041_600), ("conv3", 23_257_600), ("all", 23_481_472)],
)
def test_stages_of_resnet50_without_batch_norm(train: str, count: int) -> None:
    network = build("resnet50", size=32)
    set_trainable(network, "resnet50", stage(train))
    assert trainable(network) - 2049 == count


@pytest.mark.parametrize(
    ("name", "head_weights"),
    [
        ("vgg16-covid", 512 * 64 + 64 + 64 * 2 + 2),
        ("densenet169-4class", 134_784 * 256 + 256 + 256 * 256 + 256 + 256 * 4 + 4),
        ("masked-4class", 7 * 7 * 2048 * 512 + 512 + 512 * 4 + 4),
        ("radiography-4class", 512 * 4 + 4),
    ],
)
def test_heads_of_the_predecessors(name: str, head_weights: int) -> None:
    network = of_recipe(name)
    recipe = load_recipe(name)
    set_trainable(network, recipe.network.architecture, stage("head"))
    assert trainable(network) == head_weights
    size = recipe.pixels.size
    output = network(np.full((2, size, size, 1), 0.5, np.float32))
    probabilities = np.asarray(output[0] if isinstance(output, list) else output)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_resnet18_is_resnet18() -> None:
    # torchvision's has 11 176 512 weights without its top; Keras also counts 2 x 4800 moving statistics.
    network = build("resnet18", size=64)
    assert network.count_params() - 513 - 2 * 4800 == 11_176_512
    assert network.output_shape == [(None, 1), (None, 2, 2, 1)]


@pytest.mark.parametrize(("architecture", "prefix"), [("vgg16", "block5"), ("densenet169", "conv5"), ("tiny", "conv3")])
def test_the_last_stage_is_counted_from_the_end(architecture: str, prefix: str) -> None:
    network = build(architecture, size=64)
    set_trainable(network, architecture, stage("conv5"))
    trained = [layer.name for layer in network.layers if layer.trainable_weights and layer.name != "evidence"]
    assert trained
    assert all(name.startswith(prefix) for name in trained)


def test_frozen_batch_norm_keeps_its_statistics_and_trained_does_not() -> None:
    for batch_norm in ("frozen", "trained"):
        network = build("resnet18", size=32)
        set_trainable(network, "resnet18", stage("all", batch_norm))
        statistics = network.get_layer("conv5_block2_2_bn").moving_mean.numpy().copy()
        network.compile("sgd", loss=["binary_crossentropy", None])
        network.fit(np.random.default_rng(0).random((4, 32, 32, 1)), np.ones((4, 1)), verbose=0)
        is_same = np.array_equal(statistics, network.get_layer("conv5_block2_2_bn").moving_mean.numpy())
        assert is_same == (batch_norm == "frozen")


def test_a_random_trunk_is_trained_whole_and_at_once() -> None:
    stages = load_recipe("default-pretrain").stages
    adapted, notes = effective_stages(stages, phase="pretrain", is_random=True, architecture="resnet50")
    assert [(each.name, each.train, each.batch_norm) for each in adapted] == [("trunk", "all", "trained")]
    assert notes
    trained, notes = effective_stages(stages, phase="pretrain", is_random=False, architecture="resnet50")
    assert [(each.train, each.batch_norm) for each in trained] == [("head", "frozen"), ("conv4", "frozen")]
    assert not notes


@pytest.mark.parametrize(
    ("phase", "stages", "reason"),
    [
        ("finetune", (stage("conv5", "auto"),), "BatchNorm would be frozen"),
        ("pretrain", (stage("all", "frozen"),), "BatchNorm would be frozen"),
        ("pretrain", (stage("head", "auto"),), "head alone"),
    ],
)
def test_a_random_trunk_with_frozen_batch_norm_is_refused(phase: Any, stages: Any, reason: str) -> None:
    with pytest.raises(RunError, match=reason):
        effective_stages(stages, phase=phase, is_random=True, architecture="resnet50")


def test_weights_are_copied_by_name_with_or_without_the_head() -> None:
    source = build("tiny", size=64)
    for with_head in (True, False):
        target = build("tiny", size=64)
        before = target.get_layer("evidence").kernel.numpy().copy()
        copy_weights(source, target, with_head=with_head)
        np.testing.assert_array_equal(
            source.get_layer("conv2").kernel.numpy(), target.get_layer("conv2").kernel.numpy()
        )
        is_kept = np.array_equal(before, target.get_layer("evidence").kernel.numpy())
        assert is_kept != with_head
    with pytest.raises(RunError, match="evidence"):
        copy_weights(source, build("tiny", classes=3, size=64), with_head=True)


def test_the_head_is_found_behind_every_trunk() -> None:
    densenet = build("densenet169", size=32, head=Head("dense", "maximum", (8,), 0.5))
    assert head_layers(densenet) == {"pool", "hidden1", "dropout", "logit", "calibrate", "prob"}


def test_a_file_of_weights_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "some.weights.h5"
    path.write_bytes(b"weights")
    assert verify_weights_file(path, hashlib.sha256(b"weights").hexdigest()) == path
    with pytest.raises(RunError, match="SHA-256"):
        verify_weights_file(path, "0" * 64)
    with pytest.raises(RunError, match=r"weights\.path"):
        verify_weights_file(tmp_path / "absent", "0" * 64)


def test_imagenet_without_a_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(RunError, match=r"--weights random"):
        imagenet_file("resnet50", tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunError, match="no ImageNet weights of resnet18"):
        imagenet_file("resnet18", tmp_path)
    (tmp_path / IMAGENET["vgg16"].name).write_bytes(b"cut")
    with pytest.raises(RunError, match="MD5"):
        imagenet_file("vgg16", tmp_path)


class _Publisher(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"weights")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_imagenet_is_fetched_once_into_the_folder_that_keras_keeps_it_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path))  # what KERAS_HOME says at Keras's import
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), _Publisher)
    address = f"http://127.0.0.1:{server.server_port}/resnet50.h5"
    published = {"resnet50": PublishedWeights(address, hashlib.md5(b"weights", usedforsecurity=False).hexdigest())}
    monkeypatch.setattr(initial_weights, "IMAGENET", published)
    with server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        path = imagenet_file("resnet50")
        answering.join()
    assert path == tmp_path / "models" / "resnet50.h5"
    assert path.read_bytes() == b"weights"
    assert imagenet_file("resnet50") == path  # nobody answers any more


def test_the_default_recipe_without_a_network_is_told_what_to_do_and_leaves_nothing(
    draw_cases: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path / "keras"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    manifest = draw_cases(tmp_path / "drawn", 4)
    with pytest.raises(RunError, match=r"--weights FILE.*--weights random"):
        pretrain(load_recipe("default-pretrain"), manifest, tmp_path / "run", now=datetime(2026, 1, 2, tzinfo=UTC))
    assert not (tmp_path / "run").exists()


def test_the_scales_of_densenet_are_imagenets() -> None:
    network = build("densenet169", size=32)
    scaled = keras.Model(network.input, network.get_layer("imagenet_scale").output)
    batch = np.random.default_rng(0).random((2, 32, 32, 1), dtype=np.float32)
    expected = keras.applications.densenet.preprocess_input(np.repeat(batch * 255, 3, axis=-1))
    np.testing.assert_allclose(np.asarray(scaled(batch)), expected, atol=1e-5)
