"""Golden images: the picture goes into the package, the patient does not, and the service reproduces them."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from cxr.errors import DamagedPackage
from cxr.package import ModelPackage, write_package
from cxr.package.golden_images import read_golden
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import PixelRecipe
from inference.model.model import Model
from inference.registry.golden_check import golden_difference
from training.packaging.golden_images import choose_golden, golden_contents

RECIPE = PixelRecipe(size=64)


@pytest.fixture
def films(tmp_path: Path, synthetic_xray: Callable[..., Dataset]) -> list[Path]:
    """A DICOM file with a LUT, one that is compressed, a PNG, and one with burned-in annotation."""
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], np.linspace(0, 65535, 4096).astype("<u2").tobytes()
    table.LUTExplanation = "MARKED"
    with_table = synthetic_xray(seed=1, VOILUTSequence=[table], StationName="MARKED", PatientComments="MARKED")
    with_table["VOILUTSequence"][0]["LUTData"].VR = "OW"
    compressed = synthetic_xray(seed=2, WindowCenter="2000", WindowWidth="3000")
    compressed.compress(RLELossless)
    burned = synthetic_xray(seed=3, BurnedInAnnotation="YES")
    paths = []
    for number, dataset in enumerate((with_table, compressed, burned)):
        paths.append(tmp_path / f"film{number}.dcm")
        dataset.PatientName, dataset.InstitutionName = "MARKED^MARKED", "MARKED"
        dataset.save_as(paths[-1], enforce_file_format=True)
    pixels = np.random.default_rng(0).integers(0, 65536, (80, 60), dtype=np.uint16)
    paths.append(tmp_path / "film.png")
    cv2.imwrite(str(paths[-1]), pixels)
    return paths


def test_the_copy_gives_the_same_input_and_names_nobody(films: list[Path]) -> None:
    contents = golden_contents(choose_golden([(path, (0.25,)) for path in films], RECIPE))
    assert set(contents) == {"golden.json", "golden-00.dcm", "golden-01.dcm", "golden-02.png"}  # not the burned-in one
    for name, source in (("golden-00.dcm", films[0]), ("golden-01.dcm", films[1])):
        assert b"MARKED" not in contents[name]
        copy = pydicom.dcmread(BytesIO(contents[name]))
        original = pydicom.dcmread(source)
        assert not {"PatientID", "PatientName", "StudyInstanceUID", "StudyDate"} & set(copy.dir())
        assert copy.SOPInstanceUID != original.SOPInstanceUID
        np.testing.assert_array_equal(to_model_input(copy, RECIPE), to_model_input(source, RECIPE))


def test_images_are_spread_over_the_candidates(films: list[Path]) -> None:
    candidates = [(films[3], (place / 100,)) for place in range(100)]
    document = json.loads(golden_contents(choose_golden(candidates, RECIPE, count=3))["golden.json"])
    assert [each["probabilities"] for each in document["images"]] == [[0.0], [0.49], [0.99]]
    assert golden_contents(choose_golden([], RECIPE)) == {}


@pytest.fixture
def packaged(tmp_path: Path, films: list[Path], tiny_package: Callable[..., ModelPackage]) -> Callable[..., Any]:
    """A package that carries these films with what its model gives for them, moved by so much."""
    source = tiny_package()
    batch = np.stack([to_model_input(path, source.manifest.recipe) for path in films])
    probabilities = Model.load(source, device="cpu").score(batch).probabilities

    def make(moved: float = 0.0, **changed: bytes) -> ModelPackage:
        images = [(path, row + moved) for path, row in zip(films, probabilities, strict=True)]
        contents: dict[str, Any] = {name: source.folder / name for name in source.manifest.files}
        contents |= golden_contents(choose_golden(images, source.manifest.recipe))
        contents |= {name.replace("_", ".", 1): content for name, content in changed.items()}
        return write_package(tmp_path / f"package{moved}", source.manifest, contents)

    return make


def test_the_service_reproduces_them(packaged: Callable[..., ModelPackage]) -> None:
    assert len(read_golden(packaged())) == 3
    assert golden_difference(packaged(0.001)) == pytest.approx(0.001, abs=1e-6)


def test_it_is_exact_where_nothing_was_moved(packaged: Callable[..., ModelPackage]) -> None:
    assert golden_difference(packaged()) < 1e-6


@pytest.mark.parametrize(
    "document",
    [
        b"[]",
        b'{"images": []}',
        b'{"images": [{"file": "../../etc/passwd", "probabilities": [0.5]}]}',
        b'{"images": [{"file": "golden-09.png", "probabilities": [0.5]}]}',
        b'{"images": [{"file": "golden-00.dcm", "probabilities": [0.5, 0.5]}]}',
        b'{"images": [{"file": "golden-00.dcm", "probabilities": [1.5]}]}',
    ],
)
def test_a_list_that_does_not_fit_is_refused(packaged: Callable[..., ModelPackage], document: bytes) -> None:
    with pytest.raises(DamagedPackage):
        read_golden(packaged(golden_json=document))
