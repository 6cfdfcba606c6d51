"""Files of weights that don't fit, sizes that a recipe can't have, and what libraries raise: words, and no folder."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from app.library_faults import library_fault
from cxr.errors import RecipeError, RunError
from training.networks import BACKBONES, build
from training.recipe import load_recipe
from training.runs.initial_weights import check_trunk_weights, weights_overrides
from training.runs.train import pretrain


def legacy_file(path: Path, layers: list[str]) -> None:
    """Write HDF5 in the layout of Keras's published files."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for name in layers:
            group = file.create_group(name)
            group.attrs["weight_names"] = [b"kernel"]
            group.create_dataset("kernel", data=np.zeros((1, 1)))


def test_a_file_with_its_head_is_named_as_such(tmp_path: Path) -> None:
    legacy_file(tmp_path / "top.h5", [f"block{number}_conv1" for number in range(1, 6)] + ["fc1", "fc2", "predictions"])
    with pytest.raises(RunError) as caught:
        check_trunk_weights(tmp_path / "top.h5", "vgg16", 64, "unit")
    words = str(caught.value)
    assert (
        "Expected: HDF5 (.h5 or .weights.h5), written by Keras, 13 layers with weights, block1_conv1 to block5_conv3"
        in words
    )
    assert (
        "Found: HDF5 with 8 layers with weights, block1_conv1 to predictions; fc1, fc2, predictions are a classif"
        in words
    )
    assert "notop" in words


@pytest.mark.parametrize(
    ("name", "found"),
    [("resnet.pth", "no HDF5, of PyTorch"), ("model.safetensors", "no HDF5, of PyTorch"), ("broken.h5", "no HDF5")],
)
def test_files_of_other_programs_are_named(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 not weights")
    with pytest.raises(RunError, match=found):
        check_trunk_weights(tmp_path / name, "vgg16", 64, "unit")


def test_weights_of_another_network_are_refused_before_the_run_has_a_folder(
    draw_cases: Callable[..., Path], tmp_path: Path
) -> None:
    build("tiny", size=64).save_weights(tmp_path / "tiny.weights.h5")
    changes = ["network.architecture=resnet18", "pixels.size=64", 'task.classes=["covid19"]']
    recipe = load_recipe("default-pretrain", [*changes, *weights_overrides(str(tmp_path / "tiny.weights.h5"))])
    drawn = draw_cases(tmp_path / "drawn", 24)
    with pytest.raises(
        RunError, match=r"tiny\.weights\.h5 does not hold the weights of resnet18.*Found: HDF5 with \d+ la"
    ):
        pretrain(recipe, drawn, tmp_path / "run", now=datetime.now(UTC))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("architecture", ["resnet18", "vgg16", "densenet169", "tiny"])
def test_the_maps_of_a_size_are_as_keras_builds_them(architecture: str) -> None:
    for size in (33, 64, 97, 127):
        image = keras.Input((size, size, 1))
        features = BACKBONES[architecture].features(image, None, "unit")
        assert features.shape[1] == BACKBONES[architecture].map_side(size)


def test_a_size_that_a_recipe_can_not_have_is_refused_by_the_recipe() -> None:
    with pytest.raises(RecipeError, match=r"2 x 2 places, and pooling = average4 needs 4 x 4; .* at least 128"):
        load_recipe("vgg16-covid", ["pixels.size=64"])
    assert load_recipe("vgg16-covid", ["pixels.size=128"]).pixels.size == 128


def test_what_keras_and_tensorflow_raise_becomes_words() -> None:
    import tensorflow as tf

    def fault_of(call: Callable[[], object]) -> str:
        try:
            call()
        except Exception as error:  # noqa: BLE001 (as the command does)
            return str(library_fault(error))
        raise AssertionError("nothing was raised")

    assert "keras refused this (ValueError)" in fault_of(
        lambda: keras.layers.AveragePooling2D(4)(keras.Input((2, 2, 1)))
    )
    assert "tensorflow refused this (InvalidArgumentError)" in fault_of(
        lambda: tf.matmul(tf.ones((2, 3)), tf.ones((2, 3)))
    )
    assert fault_of(lambda: {}["ours"]) == "None"  # a fault of this project keeps its traceback


def test_a_command_ends_with_words_where_keras_raises(tmp_path: Path) -> None:
    code = "import sys, app.cli, keras\napp.cli.app = lambda: keras.saving.load_model(sys.argv[1])\napp.cli.main()\n"
    (tmp_path / "x.keras").write_bytes(b"no model")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.keras")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.search(r"keras refused this \(\w+\): .*Check the files", done.stderr)
    assert "Traceback" not in done.stderr
