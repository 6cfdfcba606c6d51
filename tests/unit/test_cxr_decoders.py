"""Our decoders give the integers that went in, and the same as pydicom's and DCMTK's."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import _PIXEL_DATA_DECODERS, get_decoder
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cxr.dicom.transfer_syntaxes import COMPRESSED_SYNTAXES, DECODABLE_SYNTAXES
from cxr.pixels.decode import decode as decode_stored
from cxr.pixels.decoders import PLUGIN, register_decoders
from cxr.pixels.recipe import DEFAULT_RECIPE

Pixels = NDArray[Any]


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_decoders()


def decode(dataset: Dataset, plugin: str = "") -> Pixels:
    syntax = dataset.file_meta.TransferSyntaxUID
    pixels, _ = get_decoder(syntax).as_array(dataset, index=0, raw=True, decoding_plugin=plugin)
    return pixels


def make(pixels: Pixels, bits: int, syntax: UID, frame: bytes, base: Dataset) -> Dataset:
    dataset = copy.deepcopy(base)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def as_bits(pixels: Pixels, bits: int) -> Pixels:
    """Values as JPEG's unsigned integers: two's complement in the stored bits."""
    unsigned = pixels.view(f"u{pixels.dtype.itemsize}")
    return unsigned & unsigned.dtype.type((1 << bits) - 1)


def rle(pixels: Pixels) -> bytes:
    rows, columns = pixels.shape
    bits = pixels.dtype.itemsize * 8
    return bytes(
        RLELosslessEncoder.encode(
            pixels.view(f"u{bits // 8}"),
            rows=rows,
            columns=columns,
            samples_per_pixel=1,
            bits_allocated=bits,
            bits_stored=bits,
            pixel_representation=0,
            photometric_interpretation="MONOCHROME2",
            number_of_frames=1,
        )
    )


ENCODERS: dict[UID, Callable[[Pixels, int], bytes]] = {
    JPEGLosslessSV1: lambda pixels, bits: imagecodecs.jpeg8_encode(
        as_bits(pixels, bits), lossless=True, bitspersample=bits, predictor=1
    ),
    JPEGLossless: lambda pixels, bits: imagecodecs.jpeg8_encode(
        as_bits(pixels, bits), lossless=True, bitspersample=bits, predictor=6
    ),
    JPEGLSLossless: lambda pixels, bits: imagecodecs.jpegls_encode(pixels.view(f"u{pixels.dtype.itemsize}")),
    JPEG2000Lossless: lambda pixels, bits: imagecodecs.jpeg2k_encode(
        pixels, level=0, bitspersample=bits, codecformat="j2k"
    ),
    HTJ2KLossless: lambda pixels, bits: imagecodecs.htj2k_encode(pixels, reversible=True),
    RLELossless: lambda pixels, bits: rle(pixels),
}


@pytest.mark.parametrize("is_signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("syntax", ENCODERS, ids=lambda syntax: syntax.keyword)
def test_lossless_gives_back_every_integer(
    syntax: UID, bits: int, is_signed: bool, synthetic_xray: Callable[..., Dataset]
) -> None:
    kind = ("i" if is_signed else "u") + ("1" if bits <= 8 else "2")
    low, high = (-(1 << bits - 1), 1 << bits - 1) if is_signed else (0, 1 << bits)
    pixels = np.random.default_rng(bits).integers(low, high, (37, 52)).astype(kind)
    pixels[0, :2] = low, high - 1
    decoded = decode(make(pixels, bits, syntax, ENCODERS[syntax](pixels, bits), synthetic_xray()), PLUGIN)
    assert decoded.dtype == pixels.dtype
    np.testing.assert_array_equal(decoded, pixels)


OWN_PLUGINS = [
    ("chest_frontal/nema_RG1_J2KI.dcm", "pillow"),
    ("chest_frontal/rsna_850819.dcm", "pillow"),
    ("chest_lateral/lidc_0005_lateral.dcm", "pillow"),
    ("other_modality/nema_CT2_J2KR.dcm", "pillow"),
    ("radiograph_other/nema_RG2_J2KI.dcm", "pillow"),
    ("radiograph_other/nema_RG3_JLSL.dcm", "pyjpegls"),
    ("radiograph_other/nema_RG3_JLSN.dcm", "pyjpegls"),
    ("other_modality/fodicom_GH364_us_jpegls.dcm", "pyjpegls"),
    ("other_modality/pydicom_MR_small_RLE.dcm", "pydicom"),
    ("other_modality/pydicom_SC_rgb_rle.dcm", "pydicom"),
    ("other_modality/orthanc_milvue_sc.dcm", "pydicom"),
]


@pytest.mark.parametrize(("file", "plugin"), OWN_PLUGINS)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom's, about these files' headers
def test_real_files_decode_as_with_pydicoms_own_plugin(file: str, plugin: str, shared_data: Path) -> None:
    dataset = dcmread(shared_data / "dicom" / file)
    np.testing.assert_array_equal(decode(dataset, PLUGIN), decode(dataset, plugin))


@pytest.mark.parametrize(
    "file",
    [
        "radiograph_other/fodicom_CR-ModalitySequenceLUT.dcm",
        "radiograph_other/fodicom_OutOfBoundsOverlay.dcm",
        "other_modality/orthanc_ct_chest_70.dcm",
        "other_modality/pydicom_SC_rgb_jpeg_gdcm.dcm",
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_real_lossless_jpeg_decodes_as_with_dcmtk(
    file: str, shared_data: Path, tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    source, plain = shared_data / "dicom" / file, tmp_path / "plain.dcm"
    subprocess.run([require_peer("dcmdjpeg"), str(source), str(plain)], check=True, capture_output=True)
    np.testing.assert_array_equal(decode(dcmread(source), PLUGIN), dcmread(plain).pixel_array)


DCMTK_ENCODERS = [
    ("dcmcjpeg", ["+e1"], JPEGLosslessSV1),
    ("dcmcjpeg", ["+el", "+sv", "4"], JPEGLossless),
    ("dcmcjpls", ["+el"], JPEGLSLossless),
    ("dcmcrle", [], RLELossless),
]


@pytest.mark.parametrize(("encoder", "options", "syntax"), DCMTK_ENCODERS)
@pytest.mark.parametrize("file", ["nih_00000001_000.dcm", "nema_RG1_J2KI.dcm"])
def test_chest_films_that_dcmtk_compressed_decode_to_the_same_integers(
    file: str,
    encoder: str,
    options: list[str],
    syntax: UID,
    shared_data: Path,
    tmp_path: Path,
    require_peer: Callable[[str], str],
) -> None:
    plain, compressed = tmp_path / "plain.dcm", tmp_path / "compressed.dcm"
    dataset = dcmread(shared_data / "dicom" / "chest_frontal" / file)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.decompress()
    dataset.save_as(plain)
    subprocess.run([require_peer(encoder), *options, str(plain), str(compressed)], check=True, capture_output=True)
    again = dcmread(compressed)
    assert again.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(decode(again, PLUGIN), decode(dataset))


@pytest.mark.parametrize(("options", "syntax"), [(["+eb"], JPEGBaseline8Bit), (["+ee"], JPEGExtended12Bit)])
def test_lossy_jpeg_decodes_as_with_dcmtk_to_within_a_step(
    options: list[str], syntax: UID, shared_data: Path, tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    plain, compressed, theirs = (tmp_path / f"{name}.dcm" for name in ("plain", "compressed", "theirs"))
    dataset = dcmread(shared_data / "dicom/radiograph_other/nema_RG3_JLSL.dcm")  # 10 bit
    dataset.decompress()
    if syntax == JPEGBaseline8Bit:
        dataset.PixelData = (dataset.pixel_array >> 2).astype(np.uint8).tobytes()
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset["PixelData"].VR = "OB"
    dataset.save_as(plain)
    for command in ([require_peer("dcmcjpeg"), *options, plain, compressed], ["dcmdjpeg", compressed, theirs]):
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
    ours = decode(dcmread(compressed), PLUGIN).astype(int)
    assert dcmread(compressed).file_meta.TransferSyntaxUID == syntax
    assert np.abs(ours - dcmread(theirs).pixel_array.astype(int)).max() <= 1


def test_an_overshoot_of_the_lossy_coder_is_white_and_does_not_wrap(shared_data: Path) -> None:
    dataset = dcmread(shared_data / "dicom/radiograph_other/nema_RG3_JPLY.dcm")
    stream = imagecodecs.jpeg8_decode(get_frame(dataset.PixelData, 0, number_of_frames=1))
    assert stream.max() > 1023  # 10 bits are stored
    del dataset.PatientOrientation  # R\\F: it would be mirrored
    stored = decode_stored(dataset, DEFAULT_RECIPE, max_megapixels=64)
    values = stored.values(stored.containers)
    np.testing.assert_array_equal(values[stream > 1023], 1023)
    np.testing.assert_array_equal(values[stream <= 1023], stream[stream <= 1023])


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("syntax", ENCODERS, ids=lambda syntax: syntax.keyword)
def test_a_stream_that_is_cut_short_raises(syntax: UID, kept: float, synthetic_xray: Callable[..., Dataset]) -> None:
    pixels = np.random.default_rng(1).integers(0, 4096, (64, 64)).astype(np.uint16)
    frame = ENCODERS[syntax](pixels, 12)
    dataset = make(pixels, 12, syntax, frame[: int(len(frame) * kept)], synthetic_xray())
    with pytest.raises((RuntimeError, ValueError)):
        decode(dataset)


def test_a_baseline_stream_that_is_cut_short_raises(shared_data: Path) -> None:
    dataset = dcmread(shared_data / "dicom/chest_frontal/rsna_850819.dcm")
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    with pytest.raises(RuntimeError):
        decode(dataset)


@pytest.mark.parametrize("missing", [1, 200])
def test_rle_with_fewer_pixels_than_the_header_says_raises(
    missing: int, synthetic_xray: Callable[..., Dataset]
) -> None:
    pixels = np.random.default_rng(1).integers(0, 4096, (20, 20)).astype(np.uint16)
    short = rle(pixels.reshape(1, -1)[:, :-missing])
    with pytest.raises(RuntimeError):
        decode(make(pixels, 12, RLELossless, short, synthetic_xray()), PLUGIN)


@pytest.mark.parametrize(
    "file", ["other_modality/pydicom_HTJ2KLossless_08_RGB.dcm", "other_modality/pydicom_SC_rgb_jpeg_gdcm.dcm"]
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_colour_comes_pixel_by_pixel(file: str, shared_data: Path) -> None:
    dataset = dcmread(shared_data / "dicom" / file)
    assert decode(dataset).shape == (dataset.Rows, dataset.Columns, 3)


def test_colour_that_we_leave_alone_is_decoded_by_pydicoms_plugin(synthetic_xray: Callable[..., Dataset]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 40, 3)).astype(np.uint8)
    dataset = synthetic_xray(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    frame = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", mct=False)
    dataset = make(pixels[:, :, 0], 8, JPEG2000, frame, dataset)
    np.testing.assert_array_equal(decode(dataset), pixels)
    with pytest.raises(RuntimeError, match="decoded by Pillow"):
        decode(dataset, PLUGIN)


@pytest.mark.parametrize("planar", [0, 1])  # of a code stream it says nothing
def test_colour_that_we_decode_comes_pixel_by_pixel(synthetic_xray: Callable[..., Dataset], planar: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 40, 3)).astype(np.uint8)
    dataset = synthetic_xray(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=planar)
    dataset = make(pixels[:, :, 0], 8, JPEGLSLossless, imagecodecs.jpegls_encode(pixels), dataset)
    np.testing.assert_array_equal(decode(dataset), pixels)


@pytest.mark.parametrize("planar", [0, 1])  # the segments are planes, whatever it says
def test_run_lengths_of_colour_are_planes(synthetic_xray: Callable[..., Dataset], planar: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 40, 3)).astype(np.uint8)
    dataset = synthetic_xray(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=planar)
    frame = RLELosslessEncoder.encode(
        pixels, rows=32, columns=40, samples_per_pixel=3, number_of_frames=1, bits_allocated=8, bits_stored=8,
        photometric_interpretation="RGB", pixel_representation=0, planar_configuration=0,
    )  # fmt: skip
    dataset = make(pixels[:, :, 0], 8, RLELossless, bytes(frame), dataset)
    np.testing.assert_array_equal(decode(dataset), pixels)


def test_importing_registers_nothing_and_registering_twice_is_once() -> None:
    script = """
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import JPEGLosslessSV1, RLELossless
from cxr.pixels.decoders import register_decoders
print(get_decoder(JPEGLosslessSV1).available_plugins, get_decoder(RLELossless).available_plugins)
register_decoders()
register_decoders()
print(get_decoder(JPEGLosslessSV1).available_plugins, list(get_decoder(RLELossless)._available))
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == ["() ('pydicom',)", "('imagecodecs',) ['imagecodecs', 'pydicom']"]


def test_every_listed_syntax_has_a_decoder_and_there_is_no_other() -> None:
    assert set(DECODABLE_SYNTAXES) == set(_PIXEL_DATA_DECODERS)
    assert {DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, JPEGLSNearLossless} <= set(DECODABLE_SYNTAXES)
    for syntax in COMPRESSED_SYNTAXES:
        assert PLUGIN in get_decoder(syntax).available_plugins, syntax.name
