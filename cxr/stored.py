"""The pixels of an image as they are stored, taken out of a DICOM dataset or an array.

References
----------
DICOM PS3.5 Sections 8.1 and 8.2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut

from cxr import elements
from cxr.codestream import check_code_stream
from cxr.decoders import register_decoders
from cxr.errors import DamagedPixels, MissingPixels
from cxr.luts import Values, read_modality, read_voi
from cxr.pixel_header import MONOCHROME, PixelHeader, check_header
from cxr.raster import luminance
from cxr.reading import READING_FAULTS
from cxr.recipe import PixelRecipe
from cxr.tones import Tones


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredPixels:
    """One channel of integers as they stand in their containers, and what they mean."""

    containers: NDArray[np.unsignedinteger[Any]]  # (rows, columns): uint8, uint16 or uint32
    value_bits: int  # how many bits of a container are its value
    high_bit: int  # the highest of them
    is_signed: bool
    tones: Tones

    def values(self, containers: NDArray[np.unsignedinteger[Any]]) -> Values:
        """Give the stored value (PS3.5 Section 8.1.1) of each container."""
        width = containers.dtype.itemsize * 8
        kind = "i" if self.is_signed else "u"
        shifted = (containers << (width - 1 - self.high_bit)).astype(containers.dtype)
        return (shifted.view(f"{kind}{width // 8}") >> (width - self.value_bits)).astype(np.float64)


def decode(dataset: Dataset, recipe: PixelRecipe, *, max_megapixels: int) -> StoredPixels:
    """Decode the one frame of a dataset.

    Raises
    ------
    MissingPixels
        If there is no pixel data.
    UnsupportedPixels, DamagedPixels
        As ``check_header`` does, or if the pixel data is too short or does not decode.
    """
    header = check_header(dataset, recipe, max_megapixels=max_megapixels)
    register_decoders()
    try:
        data = dataset.get("PixelData")
        if not data:
            raise MissingPixels("The object has no pixel data: have the sender export the image with its pixels.")
        _check_data(data, header)
        frame = _decode_frame(dataset, header)
        tones = _read_tones(dataset, header, frame)
    except READING_FAULTS as error:
        raise DamagedPixels(
            f"The pixel data does not decode as {header.syntax.name} ({type(error).__name__}): have the sender "
            "export the image again."
        ) from error
    return _contain(frame, header, tones)


def _check_data(data: bytes, header: PixelHeader) -> None:
    """Hold the length, or the size that the code stream itself tells, against the header."""
    if header.syntax.is_encapsulated:
        frame = get_frame(data, 0, number_of_frames=1)
        check_code_stream(frame, header.syntax, rows=header.rows, columns=header.columns, samples=header.samples)
    elif len(data) < header.frame_bytes:
        raise DamagedPixels(
            f"Received {len(data)} bytes of pixel data where Rows x Columns needs {header.frame_bytes}: the transfer "
            "was cut short or the header is wrong; have the image sent again."
        )


def _decode_frame(dataset: Dataset, header: PixelHeader) -> NDArray[Any]:
    """Decode to (rows, columns), or (rows, columns, 3) where the recipe accepts colour."""
    is_colour = header.photometric not in MONOCHROME
    options: dict[str, Any] = {"raw": not is_colour, "pixel_representation": int(header.is_signed)}
    if not header.syntax.is_encapsulated and not is_colour:
        # The unused bits are masked with the table's 65,536 entries, not with the image's pixels.
        options |= {"view_only": True, "correct_unused_bits": False}
    pixels, _ = get_decoder(header.syntax).as_array(dataset, index=0, **options)
    if header.photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    return np.asarray(pixels)


def _contain(frame: NDArray[Any], header: PixelHeader, tones: Tones) -> StoredPixels:
    if frame.ndim == 3:
        frame = luminance(frame)
    frame = frame.astype(frame.dtype.newbyteorder("="), order="C", copy=False)
    width = frame.dtype.itemsize * 8
    # A decoder gives whole values; only pixels that came as they are still have foreign bits in them.
    is_masked = not header.syntax.is_encapsulated and width == header.bits_allocated
    return StoredPixels(
        containers=frame.view(f"u{width // 8}"),
        value_bits=header.bits_stored if is_masked else width,
        high_bit=header.high_bit if is_masked else width - 1,
        is_signed=frame.dtype.kind == "i",
        tones=tones,
    )


def _read_tones(dataset: Dataset, header: PixelHeader, frame: NDArray[Any]) -> Tones:
    if header.photometric == "PALETTE COLOR":  # now the palette's own depth
        return Tones(extremes=(0.0, float(np.iinfo(frame.dtype).max)), is_raster=True)
    half, full = float(1 << (header.bits_stored - 1)), float(1 << header.bits_stored)
    extremes = (-half, half - 1) if header.is_signed else (0.0, full - 1)
    if header.photometric not in MONOCHROME:
        return Tones(extremes=extremes, is_raster=True)
    return Tones(
        extremes=extremes,
        modality=read_modality(dataset),
        voi=read_voi(dataset),
        is_inverted=(
            header.photometric == "MONOCHROME1" or elements.code_string(dataset, "PresentationLUTShape") == "INVERSE"
        ),
        padding=_read_padding(dataset, header),
    )


def _read_padding(dataset: Dataset, header: PixelHeader) -> tuple[float, float] | None:
    """Read Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2), as stored values."""
    limits = [
        _as_stored(value, header)
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        if (value := elements.integer(dataset, keyword)) is not None
    ]
    if not limits or "PixelPaddingValue" not in dataset:
        return None
    return min(limits), max(limits)


def _as_stored(value: int, header: PixelHeader) -> float:
    # The VR (US or SS) often contradicts Pixel Representation: 63536 is -2000.
    span = 1 << header.bits_allocated
    if header.is_signed and span // 2 <= value < span:
        value -= span
    elif not header.is_signed and -span // 2 <= value < 0:
        value += span
    return float(value)
