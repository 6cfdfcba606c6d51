"""Which bits, fragments and tables of an image are its values, whatever it is compressed with."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cxr.errors import DamagedPixels, UnsupportedPixels
from cxr.pixels.decode import decode
from cxr.pixels.recipe import DEFAULT_RECIPE

Make = Callable[..., Dataset]
Pixels = NDArray[Any]


def film(side: int = 64) -> Pixels:
    y, x = np.mgrid[0:side, 0:side] / side
    return np.round(2000 + 1900 * np.sin(5 * x) * np.cos(4 * y)).astype("u2")


def values(dataset: Dataset) -> Pixels:
    stored = decode(dataset, DEFAULT_RECIPE, max_megapixels=64)
    return stored.values(stored.containers).astype(int)


def rle(pixels: Pixels) -> bytes:
    return bytes(
        RLELosslessEncoder.encode(
            pixels, rows=pixels.shape[0], columns=pixels.shape[1], samples_per_pixel=1, bits_allocated=16,
            bits_stored=16, pixel_representation=0, photometric_interpretation="MONOCHROME2", number_of_frames=1,
        )
    )  # fmt: skip


WHOLE_WORDS: dict[UID, Callable[[Pixels], bytes]] = {
    RLELossless: rle,
    JPEGLosslessSV1: lambda words: imagecodecs.jpeg8_encode(words, lossless=True, bitspersample=16),
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda words: imagecodecs.jpeg2k_encode(
        words, level=0, reversible=True, codecformat="j2k", bitspersample=16
    ),
    JPEG2000: lambda words: imagecodecs.jpeg2k_encode(
        words, level=0, reversible=True, codecformat="j2k", bitspersample=16
    ),
    HTJ2KLossless: lambda words: imagecodecs.htj2k_encode(words, reversible=True),
}


def compressed(make: Make, frame: bytes, syntax: UID, side: int = 64, **elements: Any) -> Dataset:
    dataset = make(rows=side, columns=side, PixelData=encapsulate([frame]), **elements)
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


@pytest.mark.parametrize("syntax", WHOLE_WORDS, ids=lambda syntax: syntax.keyword)
def test_bits_outside_bits_stored_are_no_values(syntax: UID, synthetic_xray: Make) -> None:
    overlay = np.zeros_like(film())
    overlay[10:20] = 0x9000
    encode = WHOLE_WORDS[syntax]
    np.testing.assert_array_equal(values(compressed(synthetic_xray, encode(film() | overlay), syntax)), film())
    signed = film().astype(int) - 2048
    words = (signed & 0xFFF).astype("u2")  # the sign is not extended
    made = compressed(synthetic_xray, encode(words), syntax, PixelRepresentation=1)
    np.testing.assert_array_equal(values(made), signed)


@pytest.mark.parametrize("high_bit", [13, 15])
@pytest.mark.parametrize("syntax", WHOLE_WORDS, ids=lambda syntax: syntax.keyword)
def test_values_may_stand_at_the_top_of_compressed_containers(syntax: UID, high_bit: int, synthetic_xray: Make) -> None:
    words = (film() << (high_bit - 11)).astype("u2") | 1  # and foreign bits below
    made = compressed(synthetic_xray, WHOLE_WORDS[syntax](words), syntax, HighBit=high_bit)
    np.testing.assert_array_equal(values(made), film())


def test_a_stream_of_values_alone_is_taken_whatever_high_bit_says(synthetic_xray: Make) -> None:
    frame = imagecodecs.jpeg8_encode(film(), lossless=True, bitspersample=12)
    np.testing.assert_array_equal(values(compressed(synthetic_xray, frame, JPEGLosslessSV1, HighBit=15)), film())


@pytest.mark.parametrize(("stored", "allocated"), [(10, 16), (8, 16), (8, 8), (12, 8)])
def test_jpeg_extended_has_its_own_depth(stored: int, allocated: int, synthetic_xray: Make) -> None:
    frame = imagecodecs.jpeg8_encode(film(), level=98, bitspersample=12)
    header = {"BitsStored": stored, "HighBit": stored - 1, "BitsAllocated": allocated}
    found = values(compressed(synthetic_xray, frame, JPEGExtended12Bit, **header))
    np.testing.assert_array_equal(found, values(compressed(synthetic_xray, frame, JPEGExtended12Bit)))
    assert found.max() > 3800


def test_a_lossy_overshoot_is_white_in_every_lossy_syntax(synthetic_xray: Make) -> None:
    bright = film()
    bright[20:40] = 4095 + 30
    for syntax, frame in (
        (JPEG2000, WHOLE_WORDS[JPEG2000](bright)),
        (JPEGLSNearLossless, imagecodecs.jpegls_encode(bright.astype("u2") | 0)),
    ):
        found = values(compressed(synthetic_xray, frame, syntax))
        assert (found[20:40] == 4095).all()
        np.testing.assert_array_equal(found[:20], bright[:20])


def fragments(parts: list[bytes], offsets: bytes = b"") -> bytes:
    items = [offsets, *parts]
    return b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item for item in items)


@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize(
    "offsets",
    [b"", struct.pack("<I", 0), struct.pack("<I", 12), struct.pack("<II", 0, 40), struct.pack("<III", 8, 2, 4)],
    ids=["none", "zero", "twelve", "two", "three"],
)
def test_one_frame_is_all_its_fragments(parts: int, offsets: bytes, synthetic_xray: Make) -> None:
    frame = imagecodecs.jpegls_encode(film())
    frame += b"\0" * (len(frame) % 2)
    step = len(frame) // parts // 2 * 2
    cut = [frame[at * step : (at + 1) * step if at + 1 < parts else None] for at in range(parts)]
    made = compressed(synthetic_xray, frame, JPEGLSLossless)
    made.PixelData = fragments(cut, offsets)
    made.ExtendedOffsetTable = struct.pack("<Q", 16)  # wrong, and of no use
    made.ExtendedOffsetTableLengths = struct.pack("<Q", 4)
    np.testing.assert_array_equal(values(made), film())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("padding", [b"", b"\0" * 64, b"\xff" * 8])
def test_a_jpeg_ls_stream_without_end_is_refused_at_once(kept: float, padding: bytes, synthetic_xray: Make) -> None:
    noisy = (film(256) // 2 + np.random.default_rng(1).integers(0, 900, (256, 256))).astype("u2")
    frame = imagecodecs.jpegls_encode(noisy)
    cut = frame[: int(len(frame) * kept) // 2 * 2] + padding
    with pytest.raises(DamagedPixels, match="no end marker"):
        values(compressed(synthetic_xray, cut, JPEGLSLossless, side=256))


@pytest.mark.parametrize("tail", [b"", b"\0", b"\xff\xff", b"\r\n\0\0", b"tail"])
@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless, HTJ2KLossless])
def test_what_stands_behind_the_end_marker_is_padding(tail: bytes, syntax: UID, synthetic_xray: Make) -> None:
    frame = WHOLE_WORDS[syntax](film())
    np.testing.assert_array_equal(values(compressed(synthetic_xray, frame + tail, syntax)), film())


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize(
    "absent",
    [["BitsStored"], ["HighBit"], ["SamplesPerPixel"], ["PixelRepresentation"], ["BitsStored", "HighBit"]],
    ids="+".join,
)
def test_absent_elements_with_one_meaning_are_filled_in(
    absent: list[str], is_compressed: bool, synthetic_xray: Make
) -> None:
    made = synthetic_xray(rows=64, columns=64, PixelData=film().astype("<u2").tobytes())
    if is_compressed:
        made = compressed(synthetic_xray, imagecodecs.jpegls_encode(film()), JPEGLSLossless)
    for keyword in absent:
        delattr(made, keyword)
    np.testing.assert_array_equal(values(made), film())


@pytest.mark.parametrize("written", ["monochrome2", "Monochrome2 ", "MONOCHROME2\0"])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_photometric_interpretation_may_be_in_lower_case(written: str, synthetic_xray: Make) -> None:
    made = synthetic_xray(rows=64, columns=64, PixelData=film().astype("<u2").tobytes())
    made.PhotometricInterpretation = written
    np.testing.assert_array_equal(values(made), film())


@pytest.mark.parametrize(
    ("keyword", "named"),
    [
        ("PhotometricInterpretation", "Photometric Interpretation"),
        ("BitsAllocated", "BitsAllocated"),
        ("Rows", "Rows"),
        ("Columns", "Columns"),
    ],
)
def test_absent_elements_that_nothing_stands_for_are_named(keyword: str, named: str, synthetic_xray: Make) -> None:
    with pytest.raises((DamagedPixels, UnsupportedPixels), match=named):
        values(synthetic_xray(**{keyword: None}))


@pytest.mark.parametrize("is_undefined", [False, True], ids=["explicit", "undefined"])
@pytest.mark.parametrize(
    ("keyword", "tables"), [("VOILUTSequence", 3), ("VOILUTSequence", 40), ("ModalityLUTSequence", 1)]
)
@pytest.mark.parametrize("implicit", [False, True])
def test_a_lut_sequence_of_any_length_is_read(
    keyword: str, tables: int, is_undefined: bool, implicit: bool, synthetic_xray: Make, tmp_path: Any
) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [0, 0, 16])
    item.add_new("LUTData", "OW", np.arange(65535, -1, -1).astype("<u2").tobytes())
    made = synthetic_xray(rows=64, columns=64, PixelData=(film() * 16).astype("<u2").tobytes())
    made.BitsStored, made.HighBit = 16, 15
    setattr(made, keyword, Sequence([item] * tables))
    made[keyword].is_undefined_length = is_undefined
    made.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1")
    made.save_as(tmp_path / "x.dcm", enforce_file_format=True, implicit_vr=implicit, little_endian=True)
    transform = decode(dcmread(tmp_path / "x.dcm"), DEFAULT_RECIPE, max_megapixels=64).transform
    table = transform.voi if keyword == "VOILUTSequence" else transform.modality
    assert table is not None
    assert table.look_up(np.array([0.0, 65535.0])).tolist() == [65535, 0]


@pytest.mark.parametrize("used", [8, 11, 12, 13, 15, 16])
def test_the_largest_entry_of_a_voi_lut_is_white(used: int, synthetic_xray: Make) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "OW", np.round(np.linspace(0, 2**used - 1, 4096)).astype("<u2").tobytes())
    made = synthetic_xray(
        rows=64, columns=64, PixelData=film().astype("<u2").tobytes(), VOILUTSequence=Sequence([item])
    )
    voi = decode(made, DEFAULT_RECIPE, max_megapixels=64).transform.voi
    assert voi is not None
    assert voi.to_grey(np.array([0.0, 2047.5, 4095.0])) == pytest.approx([0, 0.5, 1], abs=0.01)


def test_baseline_is_as_deep_as_its_header(synthetic_xray: Make) -> None:
    eight = (film() >> 4).astype("u1")
    frame = imagecodecs.jpeg8_encode(eight, level=100)
    header = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    assert np.abs(values(compressed(synthetic_xray, frame, JPEGBaseline8Bit, **header)) - eight).max() <= 3
