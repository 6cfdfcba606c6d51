from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from training.networks import BACKBONES, build
from training.networks.network import CAFFE_MEANS


def images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, size, size, 1), dtype=np.float32)


@pytest.mark.parametrize(("classes", "activation"), [(1, "sigmoid"), (4, "softmax"), (3, "sigmoid")])
def test_outputs_are_probabilities_and_their_evidence(classes: int, activation: str) -> None:
    network = build("tiny", classes=classes, activation=activation, size=64)
    assert network.output_names == ["prob", "evidence"]
    probabilities, evidence = (np.asarray(output) for output in network(images(3, 64)))
    assert probabilities.shape == (3, classes)
    assert evidence.shape == (3, 4, 4, classes)
    if activation == "softmax":
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert ((probabilities > 0) & (probabilities < 1)).all()


@pytest.mark.parametrize("architecture", ["tiny", "resnet50"])
def test_the_mean_of_the_evidence_is_the_logit_of_the_score(architecture: str) -> None:
    network = build(architecture, size=64)
    # Scores that are not all near one half.
    network.get_layer("evidence").kernel.assign(network.get_layer("evidence").kernel * 300)
    probabilities, evidence = (np.asarray(output, dtype=np.float64) for output in network(images(4, 64)))
    logits = evidence.mean(axis=(1, 2))
    assert np.ptp(logits) > 1e-3
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_calibration_is_a_scale_and_a_bias_on_the_logit() -> None:
    network = build("tiny", size=64)
    batch = images(2, 64)
    before = np.asarray(network(batch)[0], dtype=np.float64)
    calibrate = network.get_layer("calibrate")
    calibrate.scale, calibrate.offset = 0.5, [1.0]
    after = np.asarray(network(batch)[0], dtype=np.float64)
    logit = np.log(before / (1 - before))
    np.testing.assert_allclose(after, 1 / (1 + np.exp(-(0.5 * logit + 1))), atol=1e-6)


def test_the_scaling_of_resnet50_is_in_the_graph_and_imagenets_own() -> None:
    network = build("resnet50", size=64)
    scaled = keras.Model(network.input, network.get_layer("imagenet_scale").output)
    batch = images(2, 64)
    # Grey to colour, then what Keras does for ResNet50, on [0, 255].
    expected = keras.applications.resnet50.preprocess_input(np.repeat(batch * 255, 3, axis=-1))
    np.testing.assert_allclose(np.asarray(scaled(batch)), expected, atol=1e-4)
    assert CAFFE_MEANS == (103.939, 116.779, 123.68)


def test_resnet50_is_resnet50() -> None:
    network = build("resnet50", size=224)
    assert network.input_shape == (None, 224, 224, 1)
    assert network.output_shape == [(None, 1), (None, 7, 7, 1)]
    # 23 587 712 is ResNet50 without top; the head adds 2048 weights and a bias.
    assert network.count_params() == 23_587_712 + 2049


def test_backbone_weights_come_from_a_file(tmp_path: Path) -> None:
    backbone = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(64, 64, 3))
    backbone.save_weights(tmp_path / "backbone.weights.h5")
    network = build("resnet50", size=64, weights=tmp_path / "backbone.weights.h5")
    for name in ("conv1_conv", "conv5_block3_3_conv"):
        loaded, saved = network.get_layer(name).get_weights(), backbone.get_layer(name).get_weights()
        for ours, theirs in zip(loaded, saved, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"architecture": "resnet51"},
        {"classes": 0},
        {"activation": "softmax", "classes": 1},
        {"size": 16},
        {"weights": Path("tiny.weights.h5")},
    ],
)
def test_numbers_that_do_not_fit_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"needed|architectures|no published weights"):
        build(**({"architecture": "tiny", "size": 64} | wrong))  # type: ignore[arg-type]


def test_few_modules_know_the_backend(root: Path) -> None:
    # Training also runs on JAX or PyTorch: what we write may not import TensorFlow by itself.
    backend = {"batches.py", "devices.py", "grad_cam.py"}  # tf.data, and what has no name in Keras
    for file in (root / "training").rglob("*.py"):
        assert "import tensorflow" not in file.read_text() or file.name in backend, file.name
    assert set(BACKBONES) == {"resnet50", "resnet18", "vgg16", "densenet169", "tiny"}
