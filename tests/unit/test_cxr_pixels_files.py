"""Real files, whole and mutilated: an array or an ImageError, never anything else, in bounded memory."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr.errors import DecoderError, ImageError
from cxr.pixels.model_input import DEFAULT_RECIPE, to_model_input
from cxr.pixels.recipe import RECIPES
from inference.worker.decode_pool import DecodePool

DATA = Path(__file__).resolve().parent.parent / "data"

# Decoders and OpenCV may sum in another order on another machine; anything that matters is larger.
TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    specification = importlib.util.spec_from_file_location("make_pixels_reference", DATA / "make_pixels_reference.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def references() -> list[dict[str, str]]:
    with (DATA / "pixels_reference.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("expected", references(), ids=lambda row: f"{row['recipe']}-{Path(row['file']).name}")
def test_reference_images_come_out_as_they_were_looked_at(
    expected: dict[str, str], shared_data: Path, maker: ModuleType
) -> None:
    path = shared_data / expected["file"]
    if not expected["std"]:
        with pytest.raises(ImageError) as caught:
            to_model_input(path, RECIPES[expected["recipe"]])
        assert caught.value.code == expected["mean"]
        return
    figures = maker.describe(to_model_input(path, RECIPES[expected["recipe"]]))
    np.testing.assert_allclose(figures, [float(expected[name]) for name in maker.COLUMNS[2:]], atol=TOLERANCE)


def test_the_reference_table_is_complete(shared_data: Path, maker: ModuleType) -> None:
    expected = {(file, recipe) for file in maker.reference_files(shared_data) for recipe in RECIPES}
    assert {(row["file"], row["recipe"]) for row in references()} == expected


def test_a_false_monochrome1_is_the_true_films_negative(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "chest_frontal"
    true, false = (to_model_input(folder / f"rsna_850819{end}.dcm") for end in ("", "_fake_MONO1"))
    np.testing.assert_allclose(true, 1 - false, atol=1e-6)


def test_one_image_in_three_codings_is_one_image(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "other_modality"
    implicit, big_endian, rle = (
        to_model_input(folder / f"pydicom_MR_small_{name}.dcm") for name in ("implicit", "bigendian", "RLE")
    )
    np.testing.assert_array_equal(implicit, big_endian)
    np.testing.assert_array_equal(implicit, rle)


MEASURE = """
import json, re, sys
from pathlib import Path
from cxr.errors import ImageError
from cxr.pixels.model_input import to_model_input
outcomes = {}
for path in map(Path, sys.argv[1:]):
    try:
        grey = to_model_input(path)
        outcomes[path.name] = [str(grey.dtype), *grey.shape]
    except ImageError as error:
        outcomes[path.name] = [error.code]
# Not ru_maxrss, which a process inherits from the one that started it.
peak_kib = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(json.dumps([int(peak_kib) / 1024, outcomes]))
"""


def measure(paths: list[Path]) -> tuple[float, dict[str, list[Any]]]:
    """Prepare files in a process of their own: its largest resident memory in MiB, and the outcomes."""
    command = [sys.executable, "-W", "error", "-c", MEASURE, *map(str, paths)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    peak_mib, outcomes = json.loads(shown.stdout)
    return peak_mib, outcomes


def test_every_shared_dicom_file_gives_an_array_or_a_code_in_little_memory(shared_data: Path) -> None:
    paths = sorted(path for path in (shared_data / "dicom").rglob("*") if path.is_file())
    peak_mib, outcomes = measure(paths)
    assert len(outcomes) == len(paths) >= 65
    assert peak_mib < 512
    arrays = {name for name, outcome in outcomes.items() if outcome == ["float32", 224, 224, 1]}
    assert {path.name for path in paths if path.parent.name in {"chest_frontal", "chest_lateral"}} <= arrays
    assert {"nema_RG3_JPLY.dcm", "fodicom_CR-ModalitySequenceLUT.dcm"} <= arrays
    codes = {"damaged_pixels", "unsupported_pixels", "missing_pixels"}
    assert {outcome[0] for name, outcome in outcomes.items() if name not in arrays} == codes
    for bomb in ("orthanc_2026-05-26-oob-monochrome-46341.dcm", "orthanc_2026-05-26-oob-monochrome-65535.dcm"):
        assert outcomes[bomb] == ["unsupported_pixels"]


def test_what_the_header_forbids_is_refused_before_the_pixels_are_in_memory(
    synthetic_xray: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "frames.dcm"
    synthetic_xray(NumberOfFrames=2, PixelData=bytes(200 * 1024 * 1024)).save_as(path, enforce_file_format=True)
    peak_mib, outcomes = measure([path])
    assert outcomes["frames.dcm"] == ["unsupported_pixels"]
    assert peak_mib < 200


@pytest.mark.long
@pytest.mark.parametrize(("bits", "side"), [(16, 8000), (32, 2828)])
def test_the_largest_image_that_is_accepted_stays_below_a_gibibyte(bits: int, side: int, tmp_path: Path) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    dataset.Rows = dataset.Columns = side
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelData = np.random.default_rng(0).integers(0, 2**bits, (side, side), f"u{bits // 8}").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = tmp_path / "large.dcm"
    dataset.save_as(path, enforce_file_format=True)
    peak_mib, outcomes = measure([path])
    assert outcomes["large.dcm"] == ["float32", 224, 224, 1]
    assert peak_mib < 1024


# --- Mutilated files ---------------------------------------------------------------------------

UNCOMPRESSED = [
    "dicom/other_modality/pydicom_MR_small_implicit.dcm",
    "dicom/other_modality/pydicom_MR_small_bigendian.dcm",
    "dicom/other_modality/pydicom_CT_small.dcm",
    "dicom/radiograph_other/pydicom_dicomdir_CR1_6154.dcm",
    "dicom/other_modality/pydicom_ExplVR_BigEnd.dcm",
    "images/normal/*.jpg",
]
COMPRESSED = [
    "dicom/other_modality/pydicom_MR_small_RLE.dcm",
    "dicom/other_modality/fodicom_GH364_us_jpegls.dcm",
    "dicom/other_modality/orthanc_ct_chest_70.dcm",
    "dicom/other_modality/nema_CT2_J2KR.dcm",
    "dicom/chest_frontal/rsna_850819.dcm",
    "dicom/radiograph_other/nema_RG3_JPLY.dcm",
]


@st.composite
def mutations(draw: st.DrawFn, length: int) -> list[tuple[int, bytes, int]]:
    """Where to put what, in place of how much; mostly in the header, at the front."""
    places = st.one_of(st.integers(0, min(3000, length)), st.integers(0, length))
    piece = st.one_of(st.binary(max_size=8), st.sampled_from([b"\xff\xff\xff\xff", b"\0" * 4, b"\xfe\xff\xdd\xe0"]))
    return draw(st.lists(st.tuples(places, piece, st.sampled_from([0, 1, 4, 8, 500, length])), min_size=1, max_size=6))


def mutate(data: bytes, changes: list[tuple[int, bytes, int]]) -> bytes:
    for place, piece, replaced in changes:
        data = data[:place] + piece + data[place + replaced :]
    return data


def original(shared_data: Path, pattern: str) -> bytes:
    return min(shared_data.glob(pattern)).read_bytes()


@pytest.mark.parametrize("pattern", UNCOMPRESSED)
@given(data=st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutilated_files_raise_nothing_but_image_errors(
    pattern: str, shared_data: Path, tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "mutilated"
    whole = original(shared_data, pattern)
    path.write_bytes(mutate(whole, data.draw(mutations(len(whole)))))
    try:
        grey = to_model_input(path, max_megapixels=4)
    except ImageError as error:
        assert str(error)
        return
    assert grey.shape == (224, 224, 1)
    assert 0 <= grey.min() <= grey.max() <= 1


@pytest.fixture(scope="module")
def preparer() -> Any:
    with DecodePool(DEFAULT_RECIPE, processes=2, timeout_s=60, max_megapixels=4) as preparer:
        yield preparer


@pytest.mark.parametrize("pattern", COMPRESSED)
def test_mutilated_code_streams_are_refused_or_decoded_and_never_hang(
    pattern: str, shared_data: Path, tmp_path: Path, preparer: DecodePool
) -> None:
    # In processes of their own, because that is what C decoders need.
    whole = original(shared_data, pattern)
    rng = np.random.default_rng(0)
    futures = []
    for number in range(40):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole) // 3, len(whole), int(rng.integers(1, 20))):
            damaged[place] = int(rng.integers(256))
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(damaged[: int(rng.integers(len(whole) // 2, 2 * len(whole)))])
        futures.append(preparer.submit(path))
    for future in futures:
        error = future.exception(120)
        assert error is None or isinstance(error, ImageError | DecoderError)
        if error is None:
            assert np.isfinite(future.result()).all()
