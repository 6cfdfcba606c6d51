"""One radiograph of 8 megapixels and 12 bits in each transfer syntax."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
from processes import image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    JPEG2000,
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

EXAMPLE = Path(__file__).resolve().parent.parent / "docs" / "example" / "frontal.dcm"
ROWS, COLUMNS = 3264, 2448


def uncompressed() -> Dataset:
    """Return the example radiograph, enlarged, with detector noise."""
    film = dcmread(EXAMPLE).pixel_array.astype(np.float32)
    large = cv2.resize(film / film.max(), (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(0).normal(0, 4, large.shape)
    return image(0, np.clip(large * 4000 + noise, 0, 4095).astype(np.uint16))


def _rle(pixels: np.ndarray, dataset: Dataset) -> bytes:
    return next(iter(RLELosslessEncoder.iter_encode(dataset)))


ENCODERS: dict[UID, Callable[[np.ndarray, Dataset], bytes]] = {
    JPEGLosslessSV1: lambda pixels, _: imagecodecs.ljpeg_encode(pixels, bitspersample=12),
    RLELossless: _rle,
    JPEGLSLossless: lambda pixels, _: imagecodecs.jpegls_encode(pixels),
    JPEG2000Lossless: lambda pixels, _: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", bitspersample=12),
    HTJ2KLossless: lambda pixels, _: imagecodecs.htj2k_encode(pixels),
    JPEG2000: lambda pixels, _: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", level=40, bitspersample=12),
}


def compressed(dataset: Dataset, syntax: UID) -> Dataset:
    """Return the radiograph in another transfer syntax."""
    pixels = dataset.pixel_array
    frame = ENCODERS[syntax](pixels, dataset)
    other = copy.deepcopy(dataset)
    other.PixelData = encapsulate([frame])
    other["PixelData"].VR = "OB"
    other["PixelData"].is_undefined_length = True
    other.file_meta.TransferSyntaxUID = syntax
    return other
