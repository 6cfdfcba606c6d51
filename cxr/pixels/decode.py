"""Decode the stored pixels of a DICOM image, and separate the stored values from other bits.

References
----------
DICOM PS3.5 Sections 8.1 and 8.2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import (
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
)

from cxr.dicom import READING_FAULTS, elements
from cxr.dicom.transfer_syntaxes import LOSSY_SYNTAXES
from cxr.errors import DamagedPixels, MissingPixels
from cxr.pixels.decoders import register_decoders
from cxr.pixels.geometry import UPRIGHT, Geometry, read_geometry
from cxr.pixels.grey_table import GreyTransform
from cxr.pixels.luts import Values, read_modality, read_voi
from cxr.pixels.pixel_header import MONOCHROME, CodeStream, PixelHeader, check_code_stream, check_header
from cxr.pixels.raster import luminance
from cxr.pixels.recipe import PixelRecipe

_JPEG: Final = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit})
_OVERSHOOT: Final = 1 / 8  # share of the range by which a lossy coder may exceed it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredPixels:
    """One channel of integers in their containers (PS3.5 Section 8.1.1), and their meaning."""

    containers: NDArray[np.unsignedinteger[Any]]  # (rows, columns): uint8, uint16 or uint32
    value_bits: int  # number of bits of the stored value
    high_bit: int  # highest bit of the stored value, from 0
    is_signed: bool
    transform: GreyTransform
    limits: tuple[float, float] | None = None  # values beyond are clipped to these
    geometry: Geometry = UPRIGHT  # from the received image to the containers, which are upright

    def values(self, containers: NDArray[np.unsignedinteger[Any]]) -> Values:
        """Return the stored value (PS3.5 Section 8.1.1) of each container; any shape, float64."""
        width = containers.dtype.itemsize * 8
        kind = "i" if self.is_signed else "u"
        shifted = (containers << (width - 1 - self.high_bit)).astype(containers.dtype)
        values: Values = (shifted.view(f"{kind}{width // 8}") >> (width - self.value_bits)).astype(np.float64)
        return values if self.limits is None else np.clip(values, *self.limits)


def decode(dataset: Dataset, recipe: PixelRecipe, *, max_megapixels: int) -> StoredPixels:
    """Decode the single frame of a dataset.

    Raises
    ------
    MissingPixels
        If there is no pixel data.
    UnsupportedPixels, DamagedPixels
        See ``check_header``; or if the pixel data is too short or does not decode.
    """
    header = check_header(dataset, recipe, max_megapixels=max_megapixels)
    register_decoders()
    try:
        data = dataset.get("PixelData")
        if not data:
            raise MissingPixels("The object has no pixel data: have the sender export the image with its pixels.")
        frame, stream = _one_frame(data, header)
        pixels = _decode_frame(frame, header, dataset, stream)
        bits = _read_bits(pixels, header, stream)
        transform = _read_transform(dataset, header, pixels, bits)
    except READING_FAULTS as error:
        raise DamagedPixels(
            f"The pixel data does not decode as {header.syntax.name} ({type(error).__name__}): have the sender "
            "export the image again."
        ) from error
    return _to_stored_pixels(pixels, bits, transform, read_geometry(dataset))


def _one_frame(data: bytes, header: PixelHeader) -> tuple[bytes, CodeStream | None]:
    """Return the frame's bytes and its code stream's header; check both against the DICOM header.

    All fragments belong to the single frame; the offset table, which is often wrong, is ignored.
    """
    if not header.syntax.is_encapsulated:
        if len(data) < header.frame_bytes:
            raise DamagedPixels(
                f"Received {len(data)} bytes of pixel data where Rows x Columns needs {header.frame_bytes}: the "
                "transfer was cut short or the header is wrong; have the image sent again."
            )
        return data, None
    _, *fragments = generate_fragments(data)  # the first item is the Basic Offset Table (PS3.5 Section A.4)
    frame = b"".join(fragments)
    stream = check_code_stream(frame, header.syntax, rows=header.rows, columns=header.columns, samples=header.samples)
    return frame, stream


def _decode_frame(frame: bytes, header: PixelHeader, dataset: Dataset, stream: CodeStream | None) -> NDArray[Any]:
    """Decode to (rows, columns), or (rows, columns, 3) where the recipe accepts colour."""
    is_colour = header.photometric not in MONOCHROME
    is_deeper = stream is not None and stream.precision > header.bits_allocated  # the header is wrong
    options: dict[str, Any] = {
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames": 1,
        "samples_per_pixel": header.samples,
        "photometric_interpretation": header.photometric,
        "planar_configuration": header.planar if stream is None else 0,  # a code stream is decoded pixel by pixel
        "bits_allocated": 16 if is_deeper else header.bits_allocated,
        "bits_stored": header.bits_stored,
        "pixel_representation": int(header.is_signed),
        "pixel_keyword": "PixelData",
        "pixel_vr": dataset["PixelData"].VR,
        "raw": not is_colour,
    }
    if not is_colour:
        # StoredPixels.values corrects unused bits and signs, on the entries of the table instead of all pixels.
        options |= {
            "correct_unused_bits": False,
            "apply_j2k_sign_correction": False,
            "apply_jls_sign_correction": False,
            "view_only": not header.syntax.is_encapsulated,  # a film is up to 100 MB: no copy of it
        }
    source = encapsulate([frame]) if header.syntax.is_encapsulated else frame
    pixels, _ = get_decoder(header.syntax).as_array(source, index=0, **options)
    if header.photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    return np.asarray(pixels)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bits:
    """Bits of a container that hold the stored value."""

    value_bits: int
    high_bit: int
    stored: int  # Bits Stored, corrected by the code stream's precision
    limits: tuple[float, float] | None = None


def _read_bits(pixels: NDArray[Any], header: PixelHeader, stream: CodeStream | None) -> _Bits:
    """Find the bits of the stored value in its container.

    Bits outside Bits Stored are undefined (PS3.5 Section 8.1.1): they may hold overlays, or no sign extension. A code
    stream as wide as the container includes these bits; one of lower precision holds only values.
    """
    width, stored = pixels.dtype.itemsize * 8, header.bits_stored
    whole = _Bits(value_bits=width, high_bit=width - 1, stored=stored)
    if header.photometric not in MONOCHROME or (stream is None and width != header.bits_allocated):
        return whole
    precision = width if stream is None else stream.precision
    if precision > header.bits_allocated:  # the header contradicts the stream
        return _Bits(value_bits=precision, high_bit=precision - 1, stored=precision)
    if precision <= stored:
        has_own_width = header.syntax in JPEG2000TransferSyntaxes or header.syntax in JPEGLSTransferSyntaxes
        bits = min(precision if has_own_width else stored, width)
        return _Bits(value_bits=bits, high_bit=bits - 1, stored=stored)
    high_bit = header.high_bit if header.high_bit < precision else stored - 1
    masked = _Bits(value_bits=stored, high_bit=high_bit, stored=stored)
    if header.syntax not in LOSSY_SYNTAXES or high_bit != stored - 1:
        return masked
    return _read_lossy_bits(pixels, header, precision, masked)


def _read_lossy_bits(pixels: NDArray[Any], header: PixelHeader, precision: int, masked: _Bits) -> _Bits:
    """Distinguish overshoot of a lossy coder, which is clipped, from values wider than Bits Stored."""
    stored, is_signed = header.bits_stored, header.is_signed
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if is_signed else (0, (1 << stored) - 1)
    values = pixels.view(f"{'i' if is_signed else 'u'}{pixels.dtype.itemsize}")
    slack = (high - low) * _OVERSHOOT
    lowest, highest = int(values.min()), int(values.max())
    if low - slack <= lowest and highest <= high + slack:
        width = pixels.dtype.itemsize * 8
        return _Bits(value_bits=width, high_bit=width - 1, stored=stored, limits=(float(low), float(high)))
    if header.syntax in _JPEG:  # 8 or 12 bits, all of the value (PS3.5 Table 8.2.1-1): Bits Stored is wrong
        return _Bits(value_bits=precision, high_bit=precision - 1, stored=precision)
    return masked


def _to_stored_pixels(pixels: NDArray[Any], bits: _Bits, transform: GreyTransform, geometry: Geometry) -> StoredPixels:
    is_signed = pixels.dtype.kind == "i"
    if pixels.ndim == 3:
        pixels = luminance(pixels)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), order="C", copy=False)
    return StoredPixels(
        containers=geometry.upright(pixels.view(f"u{pixels.dtype.itemsize}")),
        value_bits=bits.value_bits,
        high_bit=bits.high_bit,
        is_signed=is_signed,
        transform=transform,
        limits=bits.limits,
        geometry=geometry,
    )


def _read_transform(dataset: Dataset, header: PixelHeader, pixels: NDArray[Any], bits: _Bits) -> GreyTransform:
    if header.photometric == "PALETTE COLOR":  # the palette's depth
        return GreyTransform(extremes=(0.0, float(np.iinfo(pixels.dtype).max)), is_raster=True)
    half, full = float(1 << (bits.stored - 1)), float(1 << bits.stored)
    extremes = (-half, half - 1) if header.is_signed else (0.0, full - 1)
    if header.photometric not in MONOCHROME:
        return GreyTransform(extremes=extremes, is_raster=True)
    return GreyTransform(
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
