"""Decoders of compressed Pixel Data, from imagecodecs, as plug-ins of pydicom.

The module has the interface of a pydicom plug-in (``is_available``, ``DECODER_DEPENDENCIES`` and a decoding function).
``register_decoders`` places it before pydicom's own plug-ins, which remain as fallback. Importing the module registers
nothing.

pydicom's plug-ins for JPEG Lossless need packages that this project does not install; for the other transfer syntaxes
imagecodecs is 3 to 14 times faster and returns the same integers.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import imagecodecs
import numpy as np
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pydicom.uid import JPEG2000 as JPEG2000_LOSSY

from cxr.dicom.transfer_syntaxes import COMPRESSED_SYNTAXES
from cxr.pixels.pixel_header import has_end_of_image

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from pydicom.pixels.decoders.base import DecodeRunner

PLUGIN: Final = "imagecodecs"

DECODER_DEPENDENCIES: Final[dict[str, tuple[str, ...]]] = dict.fromkeys(COMPRESSED_SYNTAXES, ("numpy", PLUGIN))
"""Part of pydicom's plug-in interface (guide "Decoder plugins")."""

_END_OF_CODE_STREAM: Final = b"\xff\xd9"
"""EOC of JPEG 2000."""

_START_OF_DATA: Final = b"\xff\x93"
"""SOD of JPEG 2000."""

# Modules of pydicom's own plug-ins, to register them again after this one.
_PYDICOM_MODULES: Final = MappingProxyType(
    {
        "gdcm": "pydicom.pixels.decoders.gdcm",
        "pylibjpeg": "pydicom.pixels.decoders.pylibjpeg",
        "pillow": "pydicom.pixels.decoders.pillow",
        "pyjpegls": "pydicom.pixels.decoders.pyjpegls",
        "pydicom": "pydicom.pixels.decoders.rle",
    }
)


def register_decoders() -> None:
    """Prefer imagecodecs in pydicom, in this process; repeated calls change nothing.

    pydicom tries plug-ins in the order in which they were added, so its own are removed and added again.
    Plug-ins that other code has added stay first.
    """
    for syntax in COMPRESSED_SYNTAXES:
        decoder = get_decoder(syntax)
        if PLUGIN in decoder.available_plugins:
            continue
        others = [name for name in _PYDICOM_MODULES if name in decoder.available_plugins]
        for name in others:
            decoder.remove_plugin(name)
        decoder.add_plugin(PLUGIN, (__name__, "decode_frame"))
        for name in others:
            decoder.add_plugin(name, (_PYDICOM_MODULES[name], "_decode_frame"))


def is_available(uid: str) -> bool:
    """Return to pydicom whether this plug-in decodes a transfer syntax."""
    return uid in _DECODERS


def decode_frame(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode one frame (interface of pydicom's plug-ins).

    Parameters
    ----------
    src
        The frame's code stream.
    runner
        Options from the header; Bits Allocated and Planar Configuration are set to those of the result.

    Returns
    -------
    bytearray
        Rows x Columns x Samples per Pixel integers, in native byte order.

    Raises
    ------
    NotImplementedError
        For colour images that the next plug-in decodes.
    ValueError, RuntimeError
        If the code stream is damaged.
    """
    return _DECODERS[runner.transfer_syntax](src, runner)


def _decode_jpeg(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode JPEG Baseline and Extended, 8 and 12 bit (ITU-T T.81, processes 1, 2 and 4)."""
    if runner.samples_per_pixel != 1:
        raise NotImplementedError("colour is decoded by Pillow, which keeps the colour space")
    _check_is_complete(src)
    return _to_frame(imagecodecs.jpeg8_decode(src), runner)


def _decode_lossless_jpeg(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode JPEG Lossless, any predictor (ITU-T T.81, process 14)."""
    _check_is_complete(src)
    try:
        pixels = imagecodecs.jpeg8_decode(src)
    except imagecodecs.Jpeg8Error:
        pixels = imagecodecs.jpegsof3_decode(src)  # twice as slow; decodes streams that libjpeg-turbo refuses
    return _to_frame(pixels, runner)


def _decode_jpeg_ls(src: bytes, runner: DecodeRunner) -> bytearray:
    _check_is_complete(src)
    return _to_frame(imagecodecs.jpegls_decode(src), runner)


def _decode_jpeg_2000(src: bytes, runner: DecodeRunner) -> bytearray:
    if runner.samples_per_pixel != 1:
        raise NotImplementedError("colour is decoded by Pillow, which returns the colour space")
    return _to_frame(imagecodecs.jpeg2k_decode(src), runner)


def _decode_htj2k(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode high-throughput JPEG 2000 (ITU-T T.814); a colour transform is inverted."""
    # Coded data can't contain the marker (T.800 B.10.1): bytes after it are padding.
    if src.find(_END_OF_CODE_STREAM, max(0, src.find(_START_OF_DATA))) < 0:
        raise ValueError("the code stream is cut short: it has no end marker")
    pixels = _to_frame(imagecodecs.htj2k_decode(src), runner)
    if runner.samples_per_pixel == 3:
        runner.set_option("photometric_interpretation", "RGB")
    return pixels


def _decode_rle(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode RLE Lossless (PS3.5 Annex G); the segments of a colour image are planes."""
    frame = bytearray(int(runner.frame_length(unit="bytes")))
    decoded = imagecodecs.dicomrle_decode(src, dtype=runner.pixel_dtype, out=frame)
    if len(decoded) != len(frame):
        raise ValueError("the RLE segments hold fewer pixels than Rows x Columns")
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 1)
    return frame


def _check_is_complete(src: bytes) -> None:
    # Of a truncated stream, libjpeg returns grey pixels with at most a message on stderr; CharLS computes for minutes.
    if not has_end_of_image(src):
        raise ValueError("the code stream is cut short: it has no end marker")


def _to_frame(pixels: NDArray[Any], runner: DecodeRunner) -> bytearray:
    """Set the width of the result's containers; return a bytearray, because pydicom changes it in place."""
    runner.set_option("bits_allocated", pixels.dtype.itemsize * 8)
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 0)
    return bytearray(np.ascontiguousarray(pixels).data)


_DECODERS: Final[Mapping[str, Callable[[bytes, DecodeRunner], bytearray]]] = MappingProxyType(
    {
        JPEGBaseline8Bit: _decode_jpeg,
        JPEGExtended12Bit: _decode_jpeg,
        JPEGLossless: _decode_lossless_jpeg,
        JPEGLosslessSV1: _decode_lossless_jpeg,
        JPEGLSLossless: _decode_jpeg_ls,
        JPEGLSNearLossless: _decode_jpeg_ls,
        JPEG2000Lossless: _decode_jpeg_2000,
        JPEG2000_LOSSY: _decode_jpeg_2000,
        HTJ2KLossless: _decode_htj2k,
        HTJ2KLosslessRPCL: _decode_htj2k,
        HTJ2K: _decode_htj2k,
        RLELossless: _decode_rle,
    }
)
