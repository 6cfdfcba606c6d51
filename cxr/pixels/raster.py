"""Read PNG and JPEG files, and reduce arrays to one channel."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cxr.errors import DamagedPixels, UnsupportedPixels

RASTER_SIGNATURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
"""First bytes of PNG and JPEG files."""

_RASTER_FAULTS: Final = (
    OSError,
    SyntaxError,  # Pillow raises it for a broken PNG chunk
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
)

# JPEG coding separates the channels of a grey picture slightly; coloured marks cover a small area.
_GREY_TOLERANCE: Final = 16  # of 255
_COLOURED_SHARE: Final = 0.01


def is_raster(path: Path) -> bool:
    """Return whether a file begins as a PNG or JPEG file; every other file is read as DICOM."""
    with path.open("rb") as file:
        return file.read(max(map(len, RASTER_SIGNATURES))).startswith(RASTER_SIGNATURES)


def read_raster(data: bytes, *, max_megapixels: int) -> NDArray[np.uint8 | np.uint16]:
    """Decode a PNG or JPEG file; apply its EXIF orientation, and blend transparency with black.

    Parameters
    ----------
    data
        Content of the file.
    max_megapixels
        Largest rows x columns that are decoded, in millions.

    Returns
    -------
    uint8 or uint16 (rows, columns), or uint8 (rows, columns, 3) RGB

    Raises
    ------
    UnsupportedPixels
        If the picture is larger.
    DamagedPixels
        If it does not decode completely.
    """
    try:
        with Image.open(BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > max_megapixels * 1_000_000:
                raise UnsupportedPixels(
                    f"Received {image.height} x {image.width} pixels; accepted are {max_megapixels} megapixels."
                )
            return _to_array(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise UnsupportedPixels(f"The picture is too large; accepted are {max_megapixels} megapixels.") from error
    except _RASTER_FAULTS as error:
        raise DamagedPixels(
            f"The PNG or JPEG file does not decode ({type(error).__name__}): export it again."
        ) from error


def _to_array(image: Image.Image) -> NDArray[np.uint8 | np.uint16]:
    if image.mode.startswith("I"):  # 16-bit PNG: "I;16", "I;16B", or "I" with 16-bit values
        deep: NDArray[np.uint16] = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
        return deep
    if image.mode in {"1", "L"} and "transparency" not in image.info:
        return np.asarray(image.convert("L"))
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        black.alpha_composite(image.convert("RGBA"))
        image = black
    return np.asarray(image.convert("RGB"))


def to_one_channel(pixels: NDArray[Any], *, accepts_colour: bool) -> NDArray[Any]:
    """Return the luminance of a grey picture, or of a colour picture if accepted.

    Parameters
    ----------
    pixels
        uint8 or uint16, (rows, columns), (rows, columns, 1) or (rows, columns, 3) RGB.

    Raises
    ------
    UnsupportedPixels
        If the shape is another, or the picture has colour that is not accepted.
    """
    if pixels.ndim == 2:
        return pixels
    if pixels.ndim != 3 or pixels.shape[2] not in {1, 3}:
        raise UnsupportedPixels(
            f"Received an array of shape {pixels.shape}; accepted are (rows, columns) and (rows, columns, 1 or 3)."
        )
    if pixels.shape[2] == 1:
        return pixels[:, :, 0]
    if not accepts_colour and not _is_grey(pixels):
        raise UnsupportedPixels("Received a colour picture; accepted are grey ones: send radiographs.")
    return luminance(pixels)


def luminance(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the luminance (ITU-R BT.601) in integer arithmetic, which keeps grey values exactly.

    Parameters
    ----------
    pixels
        uint8 or uint16 (rows, columns, 3), RGB.

    Returns
    -------
    (rows, columns), of the same type.
    """
    red, green, blue = (pixels[:, :, channel].astype(np.uint32) for channel in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).astype(pixels.dtype)


def _is_grey(pixels: NDArray[Any]) -> bool:
    red, green, blue = (pixels[:, :, channel] for channel in range(3))
    highest = np.maximum(np.maximum(red, green), blue)
    distance = highest - np.minimum(np.minimum(red, green), blue)
    tolerance = _GREY_TOLERANCE * (np.iinfo(pixels.dtype).max // 255)
    return bool(np.count_nonzero(distance > tolerance) <= _COLOURED_SHARE * distance.size)
