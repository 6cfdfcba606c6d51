from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from cxr.errors import DamagedPackage, DeviceExhausted, IncompatiblePackage, SettingsError
from cxr.package import ModelPackage, Outputs, write_package
from inference.model import graph_file
from inference.model.batches import ModelOutput
from inference.model.devices import DeviceChoice
from inference.model.model import Model
from inference.model.tensorflow_runtime import is_exhausted
from training.networks import build

Repackage = Callable[..., ModelPackage]


def images(count: int, size: int = 64) -> NDArray[np.float32]:
    return np.random.default_rng(count).random((count, size, size, 1), dtype=np.float32)


@pytest.fixture
def repackage(tmp_path: Path, tiny_package: Callable[..., ModelPackage]) -> Repackage:
    """Put another graph into a copy of the tiny package."""

    def make(graph: Any, **changes: Any) -> ModelPackage:
        source = tiny_package()
        path = tmp_path / "model.keras"
        if isinstance(graph, bytes):
            path.write_bytes(graph)
        else:
            graph.save(path)
        manifest = source.manifest.model_copy(update=changes)
        return write_package(
            tmp_path / "package", manifest, {"model.keras": path, "MODEL_CARD.md": source.folder / "MODEL_CARD.md"}
        )

    return make


def rewrite(package: ModelPackage, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """Change the members of a package's .keras archive."""
    with zipfile.ZipFile(package.model_path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    target = package.folder.parent / "rewritten.keras"
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.read_bytes()


def test_a_model_scores_as_keras_does(tiny_package: Callable[..., ModelPackage]) -> None:
    package = tiny_package("normal", "covid19", "lung_opacity", activation="softmax")
    model = Model.load(package, device="cpu")
    assert model.device == "cpu"
    batch = images(5)
    output = model.score(batch)
    probabilities, evidence = keras.saving.load_model(package.model_path, compile=False)(batch)
    np.testing.assert_allclose(output.probabilities, np.asarray(probabilities), atol=1e-6)
    assert output.evidence is not None
    np.testing.assert_allclose(output.evidence, np.asarray(evidence), atol=1e-6)
    assert output.probabilities.dtype == output.evidence.dtype == np.float32
    assert output.probabilities.shape == (5, 3)
    assert output.evidence.shape == (5, 4, 4, 3)


def test_an_images_score_does_not_depend_on_the_batch_it_came_in(tiny_package: Callable[..., ModelPackage]) -> None:
    model = Model.load(tiny_package(), device="cpu")
    batch = images(9)
    whole = model.score(batch).probabilities
    alone = np.concatenate([model.score(batch[[row]]).probabilities for row in range(9)])
    # Far below the package's tolerance: the same kernels, at most summed in another order.
    np.testing.assert_allclose(whole, alone, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 64, 64, 1), (1, 63, 64, 1), (1, 64, 64, 3), (64, 64, 1), (1, 64, 64)])
def test_a_batch_of_another_shape_is_refused(tiny_package: Callable[..., ModelPackage], shape: tuple[int, ...]) -> None:
    model = Model.load(tiny_package(), device="cpu")
    with pytest.raises(ValueError, match=r"\(N, 64, 64, 1\)"):
        model.score(np.zeros(shape, dtype=np.float32))


def test_a_graph_without_evidence_gives_none(repackage: Repackage) -> None:
    graph = build("tiny", size=64)
    package = repackage(keras.Model(graph.input, graph.get_layer("prob").output), outputs=Outputs(evidence=None))
    assert Model.load(package, device="cpu").score(images(2)).evidence is None


def test_a_graph_whose_order_of_outputs_differs_is_read_by_name(repackage: Repackage) -> None:
    graph = build("tiny", size=64)
    turned = keras.Model(graph.input, graph.outputs[::-1])
    output = Model.load(repackage(turned), device="cpu").score(images(2))
    assert output.probabilities.shape == (2, 1)


def test_a_lambda_layer_is_refused_by_its_name(repackage: Repackage) -> None:
    image = keras.Input((64, 64, 1))
    doubled = keras.layers.Lambda(lambda x: x * 2, name="sneaky")(image)
    pooled = keras.layers.GlobalAveragePooling2D()(doubled)
    graph = keras.Model(image, keras.layers.Dense(1, name="prob")(pooled))
    with pytest.raises(IncompatiblePackage, match=r"'Lambda' \(layer 'sneaky'\)"):
        Model.load(repackage(graph, outputs=Outputs(evidence=None)), device="cpu")


@keras.saving.register_keras_serializable(package="elsewhere")
class Doubled(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x * 2


def test_a_custom_layer_is_refused_by_its_name_even_where_python_knows_it(repackage: Repackage) -> None:
    image = keras.Input((64, 64, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(Doubled(name="homemade")(image))
    graph = keras.Model(image, keras.layers.Dense(1, name="prob")(pooled))
    with pytest.raises(IncompatiblePackage, match=r"'Doubled' \(layer 'homemade'\)"):
        Model.load(repackage(graph, outputs=Outputs(evidence=None)), device="cpu")


@pytest.mark.parametrize(
    "object_",
    [
        {"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "function"},
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"name": "reader", "filepath": "/etc"}},
        {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
        {"module": "os", "class_name": "Dense", "config": {}},
        {"class_name": "__lambda__", "config": {"value": "AAAA"}},
        {"module": "keras.layers", "class_name": "Dense", "config": {}, "registered_name": "elsewhere>Dense"},
    ],
    ids=["function", "SavedModel", "file reader", "module", "pickled lambda", "registered"],
)
def test_an_object_hidden_in_the_graphs_description_is_refused(
    repackage: Repackage, tiny_package: Callable[..., ModelPackage], tmp_path: Path, object_: dict[str, Any]
) -> None:
    def hide(members: dict[str, bytes]) -> None:
        config = json.loads(members["config.json"])
        config["config"]["layers"][1]["config"]["scale"] = [{"deeper": object_}]
        members["config.json"] = json.dumps(config).encode()

    copied = ModelPackage(tmp_path / "copy", tiny_package().manifest, tiny_package().fingerprint)
    shutil.copytree(tiny_package().folder, copied.folder)
    with pytest.raises(IncompatiblePackage, match=f"{object_['class_name']!r}"):
        Model.load(repackage(rewrite(copied, hide)), device="cpu")


def test_how_it_was_trained_does_not_matter(repackage: Repackage) -> None:
    graph = build("tiny", size=64)
    graph.compile(optimizer=keras.optimizers.AdamW(), loss=["binary_crossentropy", None])
    assert Model.load(repackage(graph), device="cpu").score(images(1)).probabilities.shape == (1, 1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip at all"])
def test_what_is_no_archive_is_damaged(repackage: Repackage, content: bytes) -> None:
    with pytest.raises(DamagedPackage, match="not a Keras 3 archive"):
        Model.load(repackage(content), device="cpu")


@pytest.mark.parametrize("change", ["asset", "no weights", "no JSON", "list", "no HDF5"])
def test_an_archive_of_other_parts_is_refused(
    repackage: Repackage, tiny_package: Callable[..., ModelPackage], tmp_path: Path, change: str
) -> None:
    def alter(members: dict[str, bytes]) -> None:
        if change == "asset":
            members["assets/vocabulary.txt"] = b"x"
        elif change == "no weights":
            del members["model.weights.h5"]
        elif change == "no HDF5":
            members["model.weights.h5"] = b"x" * 100
        else:
            members["config.json"] = {"no JSON": b"{", "list": b"[]"}[change]

    copied = ModelPackage(tmp_path / "copy", tiny_package().manifest, tiny_package().fingerprint)
    shutil.copytree(tiny_package().folder, copied.folder)
    with pytest.raises((DamagedPackage, IncompatiblePackage)):
        Model.load(repackage(rewrite(copied, alter)), device="cpu")


@pytest.mark.parametrize("most_in_memory", [graph_file.MAX_WEIGHTS_BYTES, 0])
@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_weights_that_point_elsewhere_are_refused(
    repackage: Repackage,
    tiny_package: Callable[..., ModelPackage],
    tmp_path: Path,
    kind: str,
    most_in_memory: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graph_file, "MAX_WEIGHTS_BYTES", most_in_memory)

    def link(members: dict[str, bytes]) -> None:
        path = tmp_path / "weights.h5"
        path.write_bytes(members["model.weights.h5"])
        with h5py.File(path, "a") as file:
            if kind == "external link":
                file["layers/link"] = h5py.ExternalLink("/etc/passwd", "/")
            elif kind == "soft link":
                file["layers/link"] = h5py.SoftLink("/layers")
            elif kind == "external storage":
                file.create_dataset("layers/data", (4,), dtype="u1", external=[("/etc/passwd", 0, 4)])
            else:
                layout = h5py.VirtualLayout((4,), dtype="f4")
                layout[:] = h5py.VirtualSource("elsewhere.h5", "data", (4,))
                file.create_virtual_dataset("layers/data", layout)
        members["model.weights.h5"] = path.read_bytes()

    copied = ModelPackage(tmp_path / "copy", tiny_package().manifest, tiny_package().fingerprint)
    shutil.copytree(tiny_package().folder, copied.folder)
    with pytest.raises(IncompatiblePackage, match=r"link|other files"):
        Model.load(repackage(rewrite(copied, link)), device="cpu")


def test_a_graph_of_another_size_is_refused_with_both(repackage: Repackage) -> None:
    with pytest.raises(IncompatiblePackage, match=r"\(\*, 96, 96, 1\).*64, 64, 1"):
        Model.load(repackage(build("tiny", size=96)), device="cpu")


def test_a_graph_with_another_number_of_classes_is_refused(repackage: Repackage) -> None:
    with pytest.raises(IncompatiblePackage, match=r"'prob' with 1 value"):
        Model.load(repackage(build("tiny", size=64, classes=2)), device="cpu")


def test_a_graph_without_the_evidence_that_is_promised_is_refused(repackage: Repackage) -> None:
    graph = build("tiny", size=64)
    package = repackage(keras.Model(graph.input, graph.get_layer("prob").output))
    with pytest.raises(IncompatiblePackage, match="'evidence' with 1 map"):
        Model.load(package, device="cpu")


def test_broken_weights_are_found_when_the_model_is_loaded(repackage: Repackage) -> None:
    graph = build("tiny", size=64)
    graph.get_layer("evidence").bias.assign([np.nan])
    with pytest.raises(IncompatiblePackage, match=r"outside \[0, 1\]"):
        Model.load(repackage(graph), device="cpu")


@pytest.mark.parametrize("fault", ["another shape", "a layer without weights", "no weights at all"])
def test_weights_that_do_not_fit_the_graph_are_refused(
    repackage: Repackage, tiny_package: Callable[..., ModelPackage], tmp_path: Path, fault: str
) -> None:
    def spoil(members: dict[str, bytes]) -> None:
        path = tmp_path / "weights.h5"
        path.write_bytes(members["model.weights.h5"])
        with h5py.File(path, "a") as file:
            if fault == "another shape":
                del file["layers/conv2d/vars/0"]
                file["layers/conv2d/vars/0"] = np.zeros((3, 3, 1, 9), np.float32)
            elif fault == "a layer without weights":
                del file["layers/conv2d"]
            else:
                for name in list(file):
                    del file[name]
        members["model.weights.h5"] = path.read_bytes()

    copied = ModelPackage(tmp_path / "copy", tiny_package().manifest, tiny_package().fingerprint)
    shutil.copytree(tiny_package().folder, copied.folder)
    with pytest.raises(IncompatiblePackage, match="does not load"):
        Model.load(repackage(rewrite(copied, spoil)), device="cpu")


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="TensorFlow sees a GPU here")
def test_without_a_gpu_only_auto_goes_to_the_cpu(tiny_package: Callable[..., ModelPackage]) -> None:
    assert Model.load(tiny_package(), device="auto").device == "cpu"
    with pytest.raises(SettingsError, match="sees 0 GPU"):
        Model.load(tiny_package(), device="gpu:0")


class Places:
    """Devices that hold so many images at once; -1: not even the graph."""

    def __init__(self, **capacity: int) -> None:
        self.capacity = capacity
        self.loaded: list[str] = []

    def load_on(self, device: str) -> Callable[[NDArray[np.float32]], ModelOutput]:
        self.loaded.append(device)
        capacity = self.capacity[device.partition(":")[0]]
        if capacity < 0:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM")

        def score(batch: NDArray[np.float32]) -> ModelOutput:
            if len(batch) > capacity:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM")
            return ModelOutput(batch.mean(axis=(1, 2)), None)

        return score


@pytest.mark.parametrize("gpu", [-1, 0])
def test_a_gpu_without_room_hands_over_to_the_cpu_under_auto(
    tiny_package: Callable[..., ModelPackage], gpu: int
) -> None:
    places = Places(gpu=gpu, cpu=2)
    model = Model(
        tiny_package().manifest,
        load_on=places.load_on,
        choice=DeviceChoice("gpu:0", may_fall_back=True),
        is_exhausted=is_exhausted,
    )
    batch = images(5)
    np.testing.assert_array_equal(model.score(batch).probabilities, batch.mean(axis=(1, 2)))
    assert places.loaded == ["gpu:0", "cpu"]
    assert model.device == "cpu"


@pytest.mark.parametrize("gpu", [-1, 0])
def test_a_gpu_that_was_asked_for_by_number_does_not(tiny_package: Callable[..., ModelPackage], gpu: int) -> None:
    places = Places(gpu=gpu, cpu=2)
    with pytest.raises(DeviceExhausted):
        Model(
            tiny_package().manifest, load_on=places.load_on, choice=DeviceChoice("gpu:1"), is_exhausted=is_exhausted
        ).score(images(1))
    assert places.loaded == ["gpu:1"]


def test_a_gpu_with_room_for_one_image_is_kept(tiny_package: Callable[..., ModelPackage]) -> None:
    places = Places(gpu=1, cpu=8)
    model = Model(
        tiny_package().manifest,
        load_on=places.load_on,
        choice=DeviceChoice("gpu:0", may_fall_back=True),
        is_exhausted=is_exhausted,
    )
    model.score(images(8))
    assert (places.loaded, model.device) == (["gpu:0"], "gpu:0")


def test_scores_agree_between_devices_within_the_packages_tolerance(
    tiny_package: Callable[..., ModelPackage], tmp_path: Path
) -> None:
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow sees no GPU on this machine")
    from training.packaging.untrained import build_untrained

    large = build_untrained(tmp_path / "package", now=tiny_package().manifest.provenance.created)
    for package in (tiny_package(), large):
        batch = images(8, package.manifest.input_size)
        on_cpu, on_gpu = (Model.load(package, device=device).score(batch) for device in ("cpu", "gpu:0"))
        difference = np.abs(on_cpu.probabilities - on_gpu.probabilities).max()
        assert difference <= package.manifest.score_tolerance


def test_loading_the_module_does_not_load_tensorflow(root: Path) -> None:
    program = (
        "import sys, inference.model.model, inference.registry.registry; "
        "print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_loading_and_scoring_prints_nothing(tiny_package: Callable[..., ModelPackage], root: Path) -> None:
    program = (
        "import sys, numpy; from pathlib import Path; from cxr.package.folder import load_package; "
        "from inference.model.model import Model; "
        "model = Model.load(load_package(Path(sys.argv[1])), device='cpu'); "
        "model.score(numpy.zeros((1, 64, 64, 1), numpy.float32))"
    )
    command = [sys.executable, "-c", program, str(tiny_package().folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
