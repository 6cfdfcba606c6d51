"""Rounded weights, the compact form of packages, and that they come back byte for byte."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from typer.testing import CliRunner

from cxr.errors import DamagedPackage, PackageError
from cxr.package import ModelPackage, write_package
from cxr.package.compact_weights import Layout, encode, expand
from cxr.package.shipped import Shipped
from training.cli.main import app
from training.networks import save_network
from training.shipped import pack
from training.shipped.pack import ship, split_keras_file
from training.shipped.quantise import quantise

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WEIGHT = st.floats(-4, 4, width=32)


def rounded(package: ModelPackage, folder: Path) -> ModelPackage:
    """The same package with rounded weights."""
    network = keras.saving.load_model(package.model_path, compile=False)
    network.set_weights(quantise(network.get_weights()))
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_network(network, folder.parent / "model.keras", now=NOW)
    contents: dict[str, bytes | Path] = {name: package.folder / name for name in package.manifest.files}
    manifest = package.manifest.model_copy(update={"files": {}})
    return write_package(folder, manifest, contents | {"model.keras": folder.parent / "model.keras"})


@given(arrays(np.float32, (7, 3), elements=WEIGHT))
def test_rounding_is_near_and_twice_is_once(kernel: np.ndarray) -> None:
    large = np.tile(kernel, (200, 1))
    (once,) = quantise([large])
    step = np.abs(kernel).max(axis=0) / 127
    assert (np.abs(once - large) <= 0.5005 * step + 1e-30).all()
    assert np.array_equal(quantise([once])[0], once)
    assert np.signbit(once).sum() == (once < 0).sum()  # no negative zero, which 8 bits can't hold
    assert encode(once)[0] == "int8"


def test_small_tensors_and_those_that_would_change_stay_as_they_are() -> None:
    generator = np.random.default_rng(0)
    small, large = generator.normal(size=(8, 3)).astype("f4"), generator.normal(size=(2000, 3)).astype("f4")
    assert quantise([small])[0] is small
    assert encode(large)[0] == "float32"  # not rounded: not lossless in 8 bits
    assert encode(quantise([large])[0])[0] == "int8"


def test_a_file_taken_apart_is_put_together_byte_for_byte(tiny_package: Callable[..., ModelPackage]) -> None:
    content = tiny_package().model_path.read_bytes()
    layout, skeleton, tensors = split_keras_file(content)
    assert expand(layout, skeleton, tensors) == content
    assert len(skeleton) + 4 * sum(each.values for each in layout.tensors) == len(content)
    assert expand(Layout.model_validate_json(layout.model_dump_json()), skeleton, tensors) == content


@pytest.mark.parametrize("fault", ["skeleton", "tensor", "missing"])
def test_parts_that_do_not_fit_are_refused(tiny_package: Callable[..., ModelPackage], fault: str) -> None:
    layout, skeleton, tensors = split_keras_file(tiny_package().model_path.read_bytes())
    if fault == "skeleton":
        skeleton = skeleton[:-1]
    elif fault == "tensor":
        tensors[layout.tensors[-1].key] += b"\0"
    else:
        del tensors[layout.tensors[0].key]
    with pytest.raises(DamagedPackage, match="are inconsistent"):
        expand(layout, skeleton, tensors)


def test_packages_are_shipped_small_share_what_is_equal_and_come_back(
    tiny_package: Callable[..., ModelPackage], tmp_path: Path
) -> None:
    first = rounded(tiny_package(size=64), tmp_path / "one" / "package")
    card = (first.folder / "MODEL_CARD.md").read_bytes() + b"another\n"
    contents: dict[str, bytes | Path] = {"model.keras": first.model_path, "MODEL_CARD.md": card}
    second = write_package(tmp_path / "two", first.manifest.model_copy(update={"files": {}}), contents)
    alone = tmp_path / "alone"
    ship({"covid19": first.folder}, alone)
    both = tmp_path / "both"
    fingerprints = ship({"covid19": first.folder, "four-class": second.folder}, both)
    sizes = [(folder / "weights.zip").stat().st_size for folder in (alone, both)]
    assert sizes[1] - sizes[0] < 0.3 * first.model_path.stat().st_size  # equal tensors are there once
    shipped = Shipped(both)
    assert shipped.fingerprints == fingerprints == {"covid19": first.fingerprint, "four-class": second.fingerprint}
    for name, package in (("covid19", first), ("four-class", second)):
        with shipped.expanded(name) as back:
            assert back.fingerprint == package.fingerprint
            assert back.model_path.read_bytes() == package.model_path.read_bytes()


@pytest.mark.parametrize("file", ["weights.zip", "covid19/MODEL_CARD.md", "shipped.json"])
def test_a_changed_byte_is_found(tiny_package: Callable[..., ModelPackage], tmp_path: Path, file: str) -> None:
    folder = tmp_path / "models"
    ship({"covid19": tiny_package().folder}, folder)
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(DamagedPackage), Shipped(folder).expanded("covid19"):
        pass


def test_what_is_too_large_for_a_clone_is_refused(
    tiny_package: Callable[..., ModelPackage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "MOST_BYTES", 10_000)
    with pytest.raises(PackageError, match="train quantise"):
        ship({"covid19": tiny_package().folder}, tmp_path / "models")


def test_expanding_needs_neither_keras_nor_hdf5(tiny_package: Callable[..., ModelPackage], tmp_path: Path) -> None:
    ship({"covid19": tiny_package().folder}, tmp_path / "models")
    code = (
        "import sys; from pathlib import Path; from cxr.package.shipped import Shipped; "
        f"Shipped(Path({str(tmp_path / 'models')!r})).expand('covid19', Path({str(tmp_path / 'out')!r})); "
        "assert not {'keras', 'h5py', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_verb_ships_packages_by_name(tiny_package: Callable[..., ModelPackage], tmp_path: Path) -> None:
    package = tiny_package()
    told = CliRunner().invoke(app, ["ship", f"covid19={package.folder}", "-o", str(tmp_path / "models"), "--json"])
    assert json.loads(told.stdout) == {"covid19": package.fingerprint}
    assert CliRunner().invoke(app, ["ship", str(package.folder), "-o", str(tmp_path / "models")]).exit_code == 2
    shutil.rmtree(tmp_path / "models" / "covid19")
    with pytest.raises(DamagedPackage, match="install"):
        Shipped(tmp_path / "models").expand("covid19", tmp_path / "again")
