"""What becomes of one image, kind by kind: accepted, shaped and shaded, or refused with a code."""

from __future__ import annotations

import dataclasses
import struct
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
)

from cxr.errors import DamagedPixels, MissingPixels, UnsupportedPixels
from cxr.pixels.decode import decode
from cxr.pixels.model_input import read_image, to_model_input
from cxr.pixels.pixel_header import check_code_stream
from cxr.pixels.recipe import DEFAULT_RECIPE, MIDRC_EMORY_RECIPE, PixelRecipe

Make = Callable[..., Dataset]


def exact(side: int, **changes: Any) -> PixelRecipe:
    """A recipe that does not resample an image of this size."""
    return dataclasses.replace(DEFAULT_RECIPE, size=side, **changes)


def ramp(side: int = 64) -> NDArray[np.uint16]:
    """12-bit values 0 to 4095, each once."""
    return np.arange(side * side, dtype=np.uint16).reshape(side, side) % 4096


@pytest.fixture
def film(synthetic_xray: Make) -> Callable[..., Dataset]:
    """Make a dataset from an array."""

    def make(pixels: NDArray[Any], **elements: Any) -> Dataset:
        bits = pixels.dtype.itemsize * 8
        given = {
            "BitsAllocated": bits,
            "BitsStored": min(12, bits),
            "HighBit": min(12, bits) - 1,
            "PixelRepresentation": int(pixels.dtype.kind == "i"),
            "PixelData": pixels.tobytes(),
        } | elements
        dataset = synthetic_xray(rows=pixels.shape[0], columns=pixels.shape[1], **given)
        if "PixelData" in dataset:
            dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
        return dataset

    return make


# --- VOI ---------------------------------------------------------------------------------------


def test_a_window_puts_its_ends_at_black_and_white(film: Make) -> None:
    grey = to_model_input(film(ramp(), WindowCenter=2048, WindowWidth=2048), exact(64)).ravel()
    # PS3.3 C.11.2.1.2: x <= c - 0.5 - (w-1)/2 is black, x > c - 0.5 + (w-1)/2 white.
    assert grey[1024] == 0 < grey[1025]
    assert grey[3070] < grey[3071] == 1
    assert grey[2047] == pytest.approx((2047 - 2047.5) / 2047 + 0.5)


def test_the_three_functions_differ_as_the_standard_says(film: Make) -> None:
    greys = {
        name: to_model_input(film(ramp(), WindowCenter=2048, WindowWidth=2000, VOILUTFunction=name), exact(64)).ravel()
        for name in ("LINEAR", "LINEAR_EXACT", "SIGMOID")
    }
    assert greys["LINEAR_EXACT"][2048] == 0.5 == greys["SIGMOID"][2048]
    assert greys["LINEAR"][2048] == pytest.approx(0.5 + 0.5 / 1999)
    assert greys["LINEAR_EXACT"][1048] == 0
    assert greys["SIGMOID"][1048] == pytest.approx(1 / (1 + np.exp(2)))
    assert greys["SIGMOID"][0] > 0


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 2048},
        {"WindowCenter": 2048, "WindowWidth": 0},
        {"WindowCenter": 2048, "WindowWidth": -5},
        {"WindowCenter": 2048, "WindowWidth": 0.5},
        {"WindowCenter": 2048, "WindowWidth": 2000, "VOILUTFunction": "CUBIC"},
        {"WindowCenter": "", "WindowWidth": ""},
    ],
)
def test_a_window_that_is_none_is_as_if_absent(film: Make, elements: dict[str, Any]) -> None:
    np.testing.assert_array_equal(to_model_input(film(ramp(), **elements)), to_model_input(film(ramp())))


def test_malformed_numbers_are_as_if_absent_and_do_not_warn(film: Make, tmp_path: Path) -> None:
    path = tmp_path / "malformed.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = film(ramp(), WindowCenter="12345", WindowWidth="11111", RescaleSlope="7", RescaleIntercept="0")
        dataset.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes().replace(b"12345", b"#!$%&").replace(b"11111", b"1,5E?").replace(b"7 ", b"x "))
    np.testing.assert_array_equal(to_model_input(path), to_model_input(film(ramp())))


def test_the_first_of_several_windows_counts(film: Make) -> None:
    several = film(ramp(), WindowCenter=[2048, 100], WindowWidth=[2048, 10], WindowCenterWidthExplanation=["A", "B"])
    np.testing.assert_array_equal(
        to_model_input(several), to_model_input(film(ramp(), WindowCenter=2048, WindowWidth=2048))
    )


def test_a_voi_lut_goes_before_a_window_and_its_largest_entry_is_white(film: Make) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 10])
    item.add_new("LUTData", "US", [value // 8 for value in range(4096)])  # up to 511 of 1023
    dataset = film(ramp(), VOILUTSequence=Sequence([item]), WindowCenter=100, WindowWidth=10)
    grey = to_model_input(dataset, exact(64)).ravel()
    assert grey[0] == 0
    assert grey[2048] == pytest.approx(256 / 511)
    assert grey[4095] == 1


@pytest.mark.parametrize("vr", ["OW", "US"])
def test_eight_bit_lut_data_may_be_bytes(film: Make, vr: str) -> None:
    entries = np.linspace(0, 255, 4096).astype(np.uint8)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 8])
    item.add_new("LUTData", vr, entries.tobytes() if vr == "OW" else [int(word) for word in entries.view("<u2")])
    grey = to_model_input(film(ramp(), VOILUTSequence=Sequence([item])), exact(64)).ravel()
    np.testing.assert_array_equal(grey, (entries / 255).astype(np.float32))


@pytest.mark.parametrize("descriptor", [[4096, 0, 12], [0, 0, 16], [4096, 0]])
def test_a_lut_that_is_too_short_is_as_if_absent(film: Make, descriptor: list[int]) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "US", [0, 1, 2])
    for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
        np.testing.assert_array_equal(
            to_model_input(film(ramp(), **{keyword: Sequence([item])})), to_model_input(film(ramp()))
        )


def test_a_window_that_ruins_the_picture_gives_way_to_percentiles(film: Make) -> None:
    robust = to_model_input(film(ramp()))
    for center, width in [(-600, 1600), (20000, 2000), (2048, 4), (2048, 100000)]:
        dataset = film(ramp(), WindowCenter=center, WindowWidth=width)
        np.testing.assert_array_equal(to_model_input(dataset), robust)
        obeyed = to_model_input(dataset, dataclasses.replace(DEFAULT_RECIPE, max_saturated=1.0, min_spread=0.0))
        assert not np.array_equal(obeyed, robust)


def test_percentiles_leave_out_what_is_saturated(film: Make) -> None:
    pixels = np.random.default_rng(0).integers(1000, 2001, (64, 64)).astype(np.uint16)
    pixels[:20], pixels[-5:] = 4095, 0  # a burned-in mark and a shutter
    grey = to_model_input(film(pixels), exact(64))[:, :, 0]
    assert grey[:20].min() == 1.0
    assert grey[-5:].max() == 0.0
    assert grey[20:-5].std() > 0.25
    assert np.mean((grey[20:-5] > 0) & (grey[20:-5] < 1)) > 0.98


# --- Sign, depth, padding, inversion -----------------------------------------------------------


@pytest.mark.parametrize("high_bit", [11, 13, 15])
def test_values_may_stand_anywhere_in_their_containers(film: Make, high_bit: int) -> None:
    shifted = (ramp() << (high_bit - 11)).astype(np.uint16)
    np.testing.assert_array_equal(
        to_model_input(film(shifted, HighBit=high_bit), exact(64)), to_model_input(film(ramp()), exact(64))
    )


@pytest.mark.parametrize("value", [63536, -2000])
def test_padding_is_black_and_not_counted_whatever_the_sign_of_its_vr(film: Make, value: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 1000, (64, 64)).astype(np.int16)
    pixels[:40] = -2000
    dataset = film(pixels, BitsStored=16, HighBit=15)
    dataset.add_new("PixelPaddingValue", "US" if value > 0 else "SS", value)
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        dataset.PhotometricInterpretation = photometric
        grey = to_model_input(dataset, exact(64))[:, :, 0]
        assert grey[:40].max() == 0
        assert grey[40:].std() > 0.25
    without = to_model_input(dataset, exact(64, padding=False))[:, :, 0]
    assert without[:40].min() == 1.0


def test_unsigned_padding_may_be_written_as_a_negative_number(film: Make) -> None:
    pixels = np.random.default_rng(0).integers(0, 1000, (64, 64)).astype(np.uint16)
    pixels[:40] = 63536
    dataset = film(pixels, BitsStored=16, HighBit=15)
    dataset.add_new("PixelPaddingValue", "SS", -2000)
    grey = to_model_input(dataset, exact(64))[:, :, 0]
    assert grey[:40].max() == 0
    assert grey[40:].std() > 0.25


def test_padding_may_be_a_range(film: Make) -> None:
    dataset = film(ramp())
    dataset.add_new("PixelPaddingValue", "US", 200)
    dataset.add_new("PixelPaddingRangeLimit", "US", 100)
    grey = to_model_input(dataset, exact(64)).ravel()
    assert grey[100:201].max() == 0 < grey[99]


@pytest.mark.parametrize(
    ("photometric", "shape", "is_inverted"),
    [
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),  # the same said twice, as DX images do
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", None, False),
    ],
)
def test_the_smallest_value_is_white_where_the_header_says_so(
    film: Make, photometric: str, shape: str | None, is_inverted: bool
) -> None:
    elements = {} if shape is None else {"PresentationLUTShape": shape}
    grey = to_model_input(film(ramp(), PhotometricInterpretation=photometric, **elements), exact(64)).ravel()
    assert (grey[0], grey[4095]) == ((1, 0) if is_inverted else (0, 1))


def test_one_and_thirty_two_bits_are_read(film: Make) -> None:
    bits = np.tile(np.array([0, 1, 1, 0], np.uint8), (64, 16))
    one = film(bits, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=np.packbits(bits, bitorder="little").tobytes())
    np.testing.assert_array_equal(to_model_input(one, exact(64))[:, :, 0], bits)
    wide = ramp().astype(np.uint32) * 100_000
    np.testing.assert_allclose(
        to_model_input(film(wide, BitsStored=32, HighBit=31, WindowCenter=2e8, WindowWidth=3e8), exact(64)),
        to_model_input(film(ramp(), WindowCenter=2e3, WindowWidth=3e3), exact(64)),
        atol=1e-3,
    )


# --- Shape -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(300, 150), (150, 300), (40, 20), (1, 500), (500, 1), (224, 224)])
def test_a_square_is_filled_with_the_borders_value_and_the_middle_stays(film: Make, rows: int, columns: int) -> None:
    pixels = np.full((rows, columns), 3000, np.uint16)
    pixels[:, : max(1, columns // 3)] = 1000
    pixels[: max(1, rows // 3)] = 1000
    grey = to_model_input(film(pixels, WindowCenter=2000, WindowWidth=4000) if pixels.std() else film(ramp()))[:, :, 0]
    assert grey.shape == (224, 224)
    if rows == 2 * columns:
        assert np.all(grey[:, :56] == grey[:, 56].min())
        np.testing.assert_allclose(grey[:, 168:], grey[200, 160], atol=1e-6)
    if columns == 2 * rows:
        np.testing.assert_allclose(grey[:56], grey[60, 60], atol=1e-6)
        np.testing.assert_allclose(grey[168:], np.median(grey[160]), atol=1e-6)


def test_shrinking_is_the_mean_over_areas(film: Make) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (128, 128)).astype(np.uint16)
    dataset = film(pixels, WindowCenter=2048, WindowWidth=4096)
    full = to_model_input(dataset, exact(128))[:, :, 0]
    small = to_model_input(dataset, exact(32))[:, :, 0]
    np.testing.assert_allclose(small, full.reshape(32, 4, 32, 4).mean(axis=(1, 3)), atol=1e-6)


def test_enlarging_is_smooth_and_stretching_does_both(film: Make) -> None:
    pixels = np.tile(np.linspace(0, 4095, 20).astype(np.uint16), (200, 1))
    dataset = film(pixels, WindowCenter=2048, WindowWidth=4096)
    grey = to_model_input(dataset, exact(100, fit="stretch"))[:, :, 0]
    steps = np.diff(grey, axis=1)
    assert steps.min() >= 0
    assert steps.max() < 0.02  # INTER_AREA would give 20 plateaus, with steps of 0.05
    assert np.abs(np.diff(grey, axis=0)).max() < 1e-6


def test_left_stays_left_and_up_stays_up(film: Make) -> None:
    pixels = np.full((100, 80), 500, np.uint16)
    pixels[:50, :40] = 3500
    grey = to_model_input(film(pixels))[:, :, 0]
    assert grey[60, 60] == 1.0
    assert grey[60, 160] == grey[160, 60] == grey[160, 160] == 0.0


# --- Refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"PixelData": None}, MissingPixels),
        ({"PixelData": b""}, MissingPixels),
        ({"PixelData": None, "Rows": None}, MissingPixels),
        ({"NumberOfFrames": 2}, UnsupportedPixels),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, UnsupportedPixels),
        ({"SamplesPerPixel": 3}, UnsupportedPixels),
        ({"SamplesPerPixel": 2}, UnsupportedPixels),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, UnsupportedPixels),
        ({"PhotometricInterpretation": None}, UnsupportedPixels),
        ({"BitsAllocated": 24}, UnsupportedPixels),
        ({"BitsAllocated": 64}, UnsupportedPixels),
        ({"Rows": 65535, "Columns": 65535}, UnsupportedPixels),
        ({"FloatPixelData": b"\0\0\0\0", "PixelData": None}, UnsupportedPixels),
        ({"Rows": 0}, DamagedPixels),
        ({"Rows": None}, DamagedPixels),
        ({"Columns": None}, DamagedPixels),
        ({"BitsAllocated": None}, DamagedPixels),
        ({"BitsStored": 17}, DamagedPixels),
        ({"Rows": 65}, DamagedPixels),
        ({"PixelData": b"\1\2\3"}, DamagedPixels),
        ({"PixelData": bytes(2 * 64 * 64)}, DamagedPixels),  # constant
        ({"PixelData": b"\5\1" * (64 * 64)}, DamagedPixels),
    ],
)
def test_refusals_have_a_code_and_name_no_value_of_the_patient(
    film: Make, elements: dict[str, Any], expected: type[Exception]
) -> None:
    dataset = film(ramp(), **elements)
    with pytest.raises(expected) as caught:
        to_model_input(dataset)
    assert type(caught.value) is expected
    assert "SYN" not in str(caught.value)
    assert "Synthetic" not in str(caught.value)


def test_a_picture_that_is_all_padding_but_one_value_is_none(film: Make) -> None:
    pixels = np.full((64, 64), 7, np.uint16)
    pixels[10:20] = 500
    dataset = film(pixels)
    assert to_model_input(dataset).max() == 1.0
    dataset.add_new("PixelPaddingValue", "US", 7)
    with pytest.raises(DamagedPixels, match="outside the padding"):
        to_model_input(dataset)


def test_the_limit_is_on_megapixels_and_counts_what_decoding_costs(film: Make) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (1000, 600)).astype(np.uint16)
    assert to_model_input(film(pixels), max_megapixels=1).shape == (224, 224, 1)
    with pytest.raises(UnsupportedPixels, match="1 megapixels"):
        to_model_input(film(np.vstack([pixels, pixels])), max_megapixels=1)
    with pytest.raises(UnsupportedPixels, match="8-fold"):
        to_model_input(film(pixels.astype(np.uint32)), max_megapixels=1)


@pytest.mark.parametrize("syntax", ["1.2.840.113619.5.2", "1.2.840.10008.1.2.4.100", "1.2.3"])
def test_a_syntax_without_decoder_is_unsupported_and_not_repeated(film: Make, syntax: str) -> None:
    dataset = film(ramp())
    dataset.file_meta.TransferSyntaxUID = syntax
    with pytest.raises(UnsupportedPixels) as caught:
        to_model_input(dataset)
    assert syntax not in str(caught.value)


def compressed(dataset: Dataset, syntax: str, frame: bytes) -> Dataset:
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEGBaseline8Bit, lambda pixels: imagecodecs.jpeg8_encode((pixels >> 4).astype(np.uint8))),
        (JPEGLosslessSV1, lambda pixels: imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=12)),
        ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode),
        (JPEG2000Lossless, lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k")),
        (JPEG2000Lossless, lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="jp2")),
        ("1.2.840.10008.1.2.4.201", imagecodecs.htj2k_encode),
    ],
)
def test_a_stream_of_another_size_than_the_headers_is_refused_before_it_is_decoded(
    film: Make, syntax: str, encode: Callable[[NDArray[Any]], bytes]
) -> None:
    dataset = compressed(film(ramp()), syntax, encode(ramp()))
    assert to_model_input(dataset).max() > 0.9
    dataset.Rows = 63
    with pytest.raises(DamagedPixels, match="64 x 64 pixels of 1 samples where the header says 63 x 64"):
        to_model_input(dataset)
    dataset.PixelData = encapsulate([b"\xff\xd8 no code stream at all"])
    with pytest.raises(DamagedPixels, match=r"is not a .* stream"):
        to_model_input(dataset)


def test_a_stream_that_promises_gigapixels_never_reaches_a_decoder(film: Make) -> None:
    frame = bytearray(imagecodecs.jpeg2k_encode(ramp(), level=0, codecformat="j2k"))
    frame[8:16] = (65500).to_bytes(4) * 2
    with pytest.raises(DamagedPixels, match="65500 x 65500"):
        to_model_input(compressed(film(ramp()), JPEG2000Lossless, bytes(frame)))


# --- Files -------------------------------------------------------------------------------------


def test_a_deflated_file_is_read_and_bounded(film: Make, tmp_path: Path) -> None:
    dataset = film(ramp())
    expected = to_model_input(dataset)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = tmp_path / "deflated.dcm"
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(to_model_input(path), expected)
    dataset.PixelData = bytes(200_000_000)  # 200 kB, deflated
    dataset.save_as(path, enforce_file_format=True)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(UnsupportedPixels, match="larger than accepted"):
        to_model_input(path, max_megapixels=1)


def test_very_many_items_behind_the_pixels_are_refused(film: Make, tmp_path: Path) -> None:
    path = tmp_path / "trailing.dcm"
    film(ramp()).save_as(path, enforce_file_format=True)
    sequence = struct.pack("<HH2sHL", 0x7FE1, 0x1010, b"SQ", 0, 0xFFFFFFFF)
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 140_000 + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    with path.open("ab") as file:
        file.write(sequence + items)
    with pytest.raises(DamagedPixels):
        to_model_input(path)


def test_a_bare_dataset_without_preamble_is_implicit_little_endian(film: Make, tmp_path: Path) -> None:
    dataset = film(ramp(), WindowCenter=2000, WindowWidth=3000)
    expected = to_model_input(dataset)
    path = tmp_path / "bare"
    del dataset.file_meta
    dataset.save_as(path, implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(to_model_input(path), expected)


def test_a_dataset_without_file_meta_keeps_the_byte_order_it_was_read_in(film: Make) -> None:
    dataset = film(ramp(), WindowCenter=2000, WindowWidth=3000)
    expected = to_model_input(dataset)
    del dataset.file_meta
    dataset.PixelData = ramp().astype(">u2").tobytes()
    dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=False)
    np.testing.assert_array_equal(to_model_input(dataset), expected)


@pytest.mark.parametrize("before", [b"", b"\xff", b"\xff\x01", b"\xff\xff\xff\x01"], ids=["", "fill", "TEM", "both"])
def test_the_size_of_a_jpeg_is_found_behind_fill_bytes_and_markers_without_a_length(before: bytes) -> None:
    frame = imagecodecs.jpeg8_encode((ramp() >> 4).astype(np.uint8))
    frame = frame[:2] + before + frame[2:]
    stream = check_code_stream(frame, JPEGBaseline8Bit, rows=64, columns=64, samples=1)
    assert stream is not None
    assert (stream.rows, stream.columns) == (64, 64)


@pytest.mark.parametrize("claimed", [0x00200001, 0x7FFFFFFF])
@pytest.mark.parametrize("end", [b"", b"\0"], ids=["even", "odd"])
def test_an_element_that_claims_to_be_longer_than_the_file_is_damage(
    film: Make, tmp_path: Path, claimed: int, end: bytes
) -> None:
    dataset = film(ramp())
    del dataset.file_meta
    path = tmp_path / "claims.dcm"
    dataset.save_as(path, implicit_vr=True, little_endian=True)
    columns = b"\x28\x00\x11\x00"
    true, false = (columns + length.to_bytes(4, "little") for length in (2, claimed))
    assert path.read_bytes().count(true) == 1
    path.write_bytes(path.read_bytes().replace(true, false) + end)
    with pytest.raises(DamagedPixels):
        to_model_input(path)


def test_sixteen_bit_png_keeps_its_depth(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (64, 64)).astype(np.uint16)
    pixels[0, :2] = 0, 65535
    path = tmp_path / "deep.png"
    path.write_bytes(imagecodecs.png_encode(pixels))
    np.testing.assert_array_equal(read_image(path), pixels)
    np.testing.assert_array_equal(to_model_input(path, exact(64))[:, :, 0], (pixels / 65535).astype(np.float32))


def test_the_training_caches_numbers_survive(film: Make) -> None:
    grey = to_model_input(film(ramp()))
    cached = np.round(grey * 65535).astype(np.uint16)
    np.testing.assert_array_equal(to_model_input(cached), (cached / 65535).astype(np.float32))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK"])
def test_grey_is_grey_in_whatever_mode_it_is_stored(tmp_path: Path, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    picture = (
        Image.fromarray(pixels).convert("RGB").convert(mode) if mode != "P" else Image.fromarray(pixels).convert("P")
    )
    picture.save(path, **({"quality": 100} if mode == "CMYK" else {}))
    grey = to_model_input(path, exact(64))[:, :, 0]
    np.testing.assert_allclose(grey, pixels / 255, atol=0.05 if mode == "CMYK" else 1e-7)


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    pixels = np.full((64, 64, 4), 200, np.uint8)
    pixels[:32, :, 3], pixels[32:, :, 3] = 0, 255
    path = tmp_path / "transparent.png"
    Image.fromarray(pixels).save(path)
    grey = to_model_input(path, exact(64))[:, :, 0]
    assert grey[:32].max() == 0
    assert grey[32:].min() == pytest.approx(200 / 255)


def test_colour_is_refused_unless_the_recipe_takes_its_luminance(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32, 0], pixels[:, 32:, 1] = 255, 255
    path = tmp_path / "colour.png"
    Image.fromarray(pixels).save(path)
    with pytest.raises(UnsupportedPixels, match="colour"):
        to_model_input(path)
    grey = to_model_input(path, exact(64, colour="luminance"))[:, :, 0]
    assert grey[0, 0] == pytest.approx(76 / 255)
    assert grey[0, 63] == pytest.approx(150 / 255)


def test_a_coloured_arrow_on_a_grey_film_is_taken(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (100, 100)).astype(np.uint8)
    pixels = np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    pixels[50:55, 50:60] = (255, 0, 0)
    path = tmp_path / "arrow.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    assert to_model_input(path).shape == (224, 224, 1)


@pytest.mark.parametrize("planar", [0, 1])
def test_dicom_colour_becomes_luminance_only_where_the_recipe_says(film: Make, planar: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    dataset = film(
        pixels, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=planar, BitsStored=8, HighBit=7
    )
    if planar:
        dataset.PixelData = np.moveaxis(pixels, 2, 0).tobytes()
    with pytest.raises(UnsupportedPixels):
        to_model_input(dataset)
    grey = to_model_input(dataset, exact(64, colour="luminance"))[:, :, 0]
    np.testing.assert_allclose(grey, pixels @ [0.299, 0.587, 0.114] / 255, atol=0.003)


def test_of_a_code_stream_the_planar_configuration_says_nothing(film: Make) -> None:
    """PS3.5 8.2.4 has it 0 there; a header that says 1 must not scramble the colours."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    dataset = film(
        pixels, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=1, BitsStored=8, HighBit=7
    )
    dataset.PixelData = encapsulate([imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", mct=False)])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    grey = to_model_input(dataset, exact(64, colour="luminance"))[:, :, 0]
    np.testing.assert_allclose(grey, pixels @ [0.299, 0.587, 0.114] / 255, atol=0.003)


def test_palette_colour_becomes_luminance(film: Make) -> None:
    index = (ramp() % 256).astype(np.uint8)
    dataset = film(index, PhotometricInterpretation="PALETTE COLOR", BitsStored=8, HighBit=7)
    palette = np.random.default_rng(0).integers(0, 256, (3, 256))
    for name, entries in zip(("Red", "Green", "Blue"), palette, strict=True):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{name}PaletteColorLookupTableData", (entries * 257).astype("<u2").tobytes())
    with pytest.raises(UnsupportedPixels):
        to_model_input(dataset)
    grey = to_model_input(dataset, exact(64, colour="luminance"))[:, :, 0]
    np.testing.assert_allclose(grey, (palette.T @ [0.299, 0.587, 0.114] / 255)[index], atol=0.003)


def test_an_exif_orientation_is_followed(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:8] = 255
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    path = tmp_path / "turned.jpg"
    picture.save(path, exif=exif, quality=100)
    grey = to_model_input(path, exact(64))[:, :, 0]
    assert grey[:, -6:].min() > 0.9
    assert grey[:, :50].max() < 0.1


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_picture_that_is_cut_short_or_too_large_is_refused(tmp_path: Path, format: str) -> None:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1100, 1000)).astype(np.uint8)).save(buffer, format)
    path = tmp_path / "picture"
    path.write_bytes(buffer.getvalue())
    assert to_model_input(path, max_megapixels=2).shape == (224, 224, 1)
    with pytest.raises(UnsupportedPixels, match="1 megapixels"):
        to_model_input(path, max_megapixels=1)
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(DamagedPixels):
        to_model_input(path)


def test_a_file_that_is_not_there_is_not_the_images_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        to_model_input(tmp_path / "absent")


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.zeros((0, 5), np.uint8), UnsupportedPixels),
        (np.zeros((4, 4), np.int64), UnsupportedPixels),
        (np.zeros((4, 4, 4), np.uint8), UnsupportedPixels),
        (np.zeros((2, 4, 4, 1), np.uint8), UnsupportedPixels),
        (np.zeros(16, np.uint8), UnsupportedPixels),
        (np.full((4, 4), 1.5), UnsupportedPixels),
        (np.full((4, 4), np.nan), UnsupportedPixels),
        (np.zeros((4, 4, 3)), UnsupportedPixels),
        (np.zeros((4, 4), np.uint8), DamagedPixels),
    ],
)
def test_arrays_that_are_no_picture_are_refused(pixels: NDArray[Any], expected: type[Exception]) -> None:
    with pytest.raises(expected):
        to_model_input(pixels)


def test_grey_arrays_pass_through(film: Make) -> None:
    grey = np.random.default_rng(0).random((64, 64, 1))
    np.testing.assert_array_equal(to_model_input(grey, exact(64)), grey.astype(np.float32))


def test_a_robust_recipe_stretches_rasters_too() -> None:
    dark = np.random.default_rng(0).integers(10, 60, (64, 64)).astype(np.uint8)
    assert to_model_input(dark, exact(64)).max() < 0.25
    robust = to_model_input(dark, exact(64, raster="robust"))
    assert (robust.min(), robust.max()) == (0, 1)


# --- The legacy recipe -------------------------------------------------------------------------


def test_midrc_emory_is_niffler_and_pillow(film: Make) -> None:
    pixels = np.random.default_rng(0).integers(0, 3000, (517, 389)).astype(np.uint16)
    pixels[0, 0] = 4095  # a marker: the rest is dark, as it was in training
    dataset = film(pixels, PhotometricInterpretation="MONOCHROME1", WindowCenter=100, WindowWidth=200, RescaleSlope=3)
    png = np.uint8(np.maximum(pixels.astype(float), 0) / pixels.max() * 255.0)
    keras = (
        np.asarray(Image.fromarray(png).convert("RGB").resize((224, 224), Image.Resampling.NEAREST), "float32") / 255
    )
    grey = to_model_input(dataset, MIDRC_EMORY_RECIPE)
    np.testing.assert_allclose(np.repeat(grey, 3, axis=2), keras, atol=1e-7)
    np.testing.assert_allclose(np.repeat(to_model_input(png, MIDRC_EMORY_RECIPE), 3, axis=2), keras, atol=1e-7)


@pytest.mark.parametrize(("rows", "columns"), [(100, 300), (3000, 2500), (224, 225), (10, 10)])
def test_nearest_takes_the_pixels_that_pillow_takes(rows: int, columns: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (rows, columns)).astype(np.uint8)
    theirs = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(np.round(to_model_input(pixels, MIDRC_EMORY_RECIPE)[:, :, 0] * 255), theirs)


def test_importing_the_pixels_never_loads_tensorflow() -> None:
    script = "import sys, cxr.pixels.model_input; print(sorted({'tensorflow', 'keras', 'db'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_package_gives_its_entry_points_without_loading_opencv_before() -> None:
    script = """
        import sys
        import cxr.pixels
        assert not {"cv2", "cxr.pixels.model_input"} & set(sys.modules)
        for name in cxr.pixels.__all__:
            getattr(cxr.pixels, name)
        assert cxr.pixels.to_model_input is sys.modules["cxr.pixels.model_input"].to_model_input
        try:
            from cxr.pixels import no_such_name
        except ImportError as error:
            print(error.name)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert run.stdout == "cxr.pixels\n"


def test_native_pixels_are_not_copied(synthetic_xray: Make) -> None:
    dataset = synthetic_xray()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stored = decode(dataset, exact(64), max_megapixels=1)
    assert np.shares_memory(stored.containers, np.frombuffer(dataset.PixelData, np.uint8))
