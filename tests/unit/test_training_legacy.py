"""Legacy weights: what Keras 2 wrote is served with the same scores, and a hostile file is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import app
from cxr.domain import PackageStatus
from cxr.errors import IncompatiblePackage, PackageError
from cxr.package import ModelPackage
from cxr.pixels.recipe import MIDRC_EMORY_RECIPE
from inference.model.model import Model
from training.packaging.keras2_import import MIDRC_EMORY, PROFILES, import_legacy
from training.packaging.keras2_weights import LegacyFile

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SMALL = replace(MIDRC_EMORY, recipe=replace(MIDRC_EMORY_RECIPE, size=64))


def test_the_profile_is_the_legacy_recipe_at_224_pixels() -> None:
    assert PROFILES["midrc-emory"] is MIDRC_EMORY
    assert (MIDRC_EMORY.recipe, MIDRC_EMORY.recipe.size) == (MIDRC_EMORY_RECIPE, 224)


@pytest.fixture(scope="session")
def keras2(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """The published graph as Keras 2 writes it, images, and what Keras 2 predicts for them."""
    folder = tmp_path_factory.mktemp("keras2")
    command = [sys.executable, str(root / "tests" / "data" / "make_legacy_weights.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="session")
def imported(keras2: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    folder = tmp_path_factory.mktemp("imported") / "package"
    return import_legacy(keras2 / "resnet_covid.hdf5", folder, now=NOW, profile=SMALL)


@pytest.fixture
def altered(keras2: Path, tmp_path: Path) -> Callable[[Callable[[h5py.File], None]], Path]:
    """A copy of the weights that somebody changed."""

    def make(change: Callable[[h5py.File], None]) -> Path:
        path = tmp_path / "altered.h5"
        shutil.copyfile(keras2 / "weights.h5", path)
        with h5py.File(path, "a") as file:
            change(file)
        return path

    return make


def test_the_package_scores_as_keras_2_did(keras2: Path, imported: ModelPackage) -> None:
    output = Model.load(imported, device="cpu").score(np.load(keras2 / "images.npy"))
    expected = np.load(keras2 / "predictions.npy")
    assert np.ptp(expected) > 0.01  # the images do differ
    np.testing.assert_allclose(output.probabilities, expected, atol=1e-5, rtol=0)
    assert output.evidence is None


def test_a_file_of_weights_alone_gives_the_same_graph(keras2: Path, imported: ModelPackage, tmp_path: Path) -> None:
    package = import_legacy(keras2 / "weights.h5", tmp_path / "package", now=NOW, profile=SMALL)
    assert package.manifest.files["model.keras"] == imported.manifest.files["model.keras"]


@pytest.mark.long
def test_the_profile_is_served_at_224_pixels_with_the_legacy_recipe(keras2: Path, tmp_path: Path) -> None:
    package = import_legacy(
        keras2 / "resnet_covid.hdf5", tmp_path / "package", now=NOW, profile=PROFILES["midrc-emory"]
    )
    assert package.manifest.recipe == MIDRC_EMORY_RECIPE
    assert package.manifest.input_size == 224
    image = np.full((1, 224, 224, 1), 0.25, np.float32)
    assert Model.load(package, device="cpu").score(image).probabilities.shape == (1, 1)


def test_the_package_says_what_it_is_worth(imported: ModelPackage) -> None:
    manifest = imported.manifest
    assert manifest.status is PackageStatus.DEMONSTRATION
    assert [gate.name for gate in manifest.accepted_gates] == ["imported"]
    assert not manifest.calibrated
    assert manifest.evaluation == {}
    card = (imported.folder / "MODEL_CARD.md").read_text()
    assert "**DEMONSTRATION MODEL - DID NOT PASS ITS EVALUATION: there was none.** Legacy weights" in card
    assert "not one of the published ones" in card
    assert manifest.provenance.parents[0] in card


def test_another_graph_is_refused_and_its_layer_named(keras2: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompatiblePackage, match="lacks the layer 'conv1_pad'"):
        import_legacy(keras2 / "other.h5", tmp_path / "package", now=NOW, profile=SMALL)
    assert not (tmp_path / "package").exists()


def _rename_layer(file: h5py.File, old: str, new: str | None) -> None:
    names = [new if name == old else name for name in file.attrs["layer_names"].astype(str)]
    file.attrs["layer_names"] = np.array([name for name in names if name is not None], "S")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_pool", "avg_pool", r"no layer .*max_pool"),
        ("conv5_block3_out", "conv5_block3_lambda", "lacks the layer 'conv5_block3_out'"),
        ("dense_1", None, r"no layer .*dense"),
    ],
)
def test_one_layer_that_differs_is_named(
    altered: Callable[..., Path], tmp_path: Path, old: str, new: str | None, message: str
) -> None:
    path = altered(lambda file: _rename_layer(file, old, new))
    with pytest.raises(IncompatiblePackage, match=message):
        import_legacy(path, tmp_path / "package", now=NOW, profile=SMALL)


def test_one_layer_too_many_is_named(altered: Callable[..., Path], tmp_path: Path) -> None:
    def add(file: h5py.File) -> None:
        names = [*file.attrs["layer_names"].astype(str), "sneaky"]
        file.attrs["layer_names"] = np.array(names, "S")
        file.create_group("sneaky").attrs["weight_names"] = np.zeros(0)

    with pytest.raises(IncompatiblePackage, match="has the layer 'sneaky'"):
        import_legacy(altered(add), tmp_path / "package", now=NOW, profile=SMALL)


PATH = "dense/dense/kernel:0"


def _external_link(file: h5py.File) -> None:
    del file[PATH]
    file[PATH] = h5py.ExternalLink("/etc/passwd", "/")


def _soft_link(file: h5py.File) -> None:
    del file["dense/dense"]
    file["dense/dense"] = h5py.SoftLink("/dense_1/dense_1")


def _soft_linked_layer(file: h5py.File) -> None:
    file.move("dense", "elsewhere")
    file["dense"] = h5py.SoftLink("/elsewhere")


def _external_storage(file: h5py.File) -> None:
    del file[PATH]
    file.create_dataset(PATH, (2048, 512), dtype="<f4", external=[("/dev/zero", 0, 2048 * 512 * 4)])


def _virtual(file: h5py.File) -> None:
    del file[PATH]
    layout = h5py.VirtualLayout((2048, 512), dtype="<f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "data", (2048, 512))
    file.create_virtual_dataset(PATH, layout)


def _packed(file: h5py.File) -> None:
    del file[PATH]
    file.create_dataset(PATH, (2048, 512), dtype="<f4", compression="gzip")


def _shape(file: h5py.File) -> None:
    del file[PATH]
    file[PATH] = np.zeros((2048, 511), np.float32)


def _huge(file: h5py.File) -> None:
    del file[PATH]
    file.create_dataset(PATH, (1 << 20, 1 << 20), dtype="<f4")  # nothing is written; reading it would take 4 TiB


def _type(file: h5py.File) -> None:
    del file[PATH]
    file[PATH] = np.zeros((2048, 512), np.float64)


def _not_finite(file: h5py.File) -> None:
    file[PATH][5, 5] = np.nan


def _group_for_data(file: h5py.File) -> None:
    del file[PATH]
    file.create_group(PATH)


def _undeclared(file: h5py.File) -> None:
    file["dense"].attrs["weight_names"] = np.array(["dense/kernel:0", "dense/bias:0", "dense/extra:0"], "S")


def _climbing(file: h5py.File) -> None:
    file["dense"].attrs["weight_names"] = np.array(["/dense_1/dense_1/kernel:0", "dense/bias:0"], "S")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_external_link, "link to somewhere else"),
        (_soft_link, "link to somewhere else"),
        (_soft_linked_layer, "link to somewhere else"),
        (_external_storage, "other files"),
        (_virtual, "other files"),
        (_packed, "packed pieces"),
        (_shape, r"shape \(2048, 511\)"),
        (_huge, r"shape \(1048576, 1048576\)"),
        (_type, "float64"),
        (_not_finite, "not finite"),
        (_group_for_data, "something else"),
        (_undeclared, "'extra'"),
        (_climbing, "link to somewhere else"),
    ],
)
def test_only_declared_arrays_of_the_file_itself_are_read(
    altered: Callable[..., Path], change: Callable[[h5py.File], None], message: str
) -> None:
    wanted = {"dense": {"kernel": (2048, 512), "bias": (512,)}}
    with LegacyFile(altered(change)) as file, pytest.raises(IncompatiblePackage, match=message):
        file.read(wanted)


def test_the_unchanged_file_is_read(altered: Callable[..., Path]) -> None:
    with LegacyFile(altered(lambda _: None)) as file:
        read = file.read({"dense": {"kernel": (2048, 512), "bias": (512,)}, "conv1_pad": {}})
    assert read["dense"]["kernel"].shape == (2048, 512)
    assert read["conv1_pad"] == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 227366688\n", "Git LFS pointer"),
        (b"PK\x03\x04 something else", "not HDF5"),
        (b"", "not HDF5"),
    ],
)
def test_what_is_no_hdf5_file_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "resnet_covid.hdf5"
    path.write_bytes(content)
    with pytest.raises(IncompatiblePackage, match=message):
        import_legacy(path, tmp_path / "package", now=NOW, profile=SMALL)


def test_an_hdf5_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(IncompatiblePackage, match="layer_names"):
        LegacyFile(path)


def test_the_command_adds_it_to_the_registry(keras2: Path, tmp_path: Path) -> None:
    data = ["--set", f"data_dir={tmp_path / 'var'}", "model"]
    done = CliRunner().invoke(app, [*data, "import-legacy", str(keras2 / "resnet_covid.hdf5"), "--json"])
    assert done.exit_code == 0, done.output
    added = json.loads(done.stdout)
    assert added["status"] == "demonstration"
    listed = json.loads(CliRunner().invoke(app, [*data, "list", "--json"]).stdout)
    assert (listed["fingerprint"], listed["name"]) == (added["fingerprint"], "midrc-emory-resnet50")
    assert CliRunner().invoke(app, [*data, "import-legacy", str(keras2 / "other.h5")]).exit_code == 1
    wrong = CliRunner().invoke(app, [*data, "import-legacy", str(keras2 / "other.h5"), "--profile", "x"])
    assert wrong.exit_code == 2


def test_a_folder_that_is_there_is_kept(keras2: Path, imported: ModelPackage) -> None:
    with pytest.raises(PackageError, match="exists already"):
        import_legacy(keras2 / "weights.h5", imported.folder, now=NOW, profile=SMALL)
