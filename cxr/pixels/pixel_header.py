"""Check the sizes in DICOM header and code stream before any pixel is decoded.

A header of 900 bytes can declare 4 gigapixels. A decoder uses the size in the code stream, not in the DICOM header:
a stream that declares 65,500 x 65,500 makes it allocate gigabytes although the header declares 512 x 512.

References
----------
DICOM PS3.3 C.7.6.3 (Image Pixel Module). ITU-T T.81 B.2.2 (JPEG frame header), T.87 C.2.2
(JPEG-LS), T.800 A.5.1 (JPEG 2000 SIZ)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    RLELossless,
)

from cxr.dicom import elements
from cxr.dicom.transfer_syntaxes import DECODABLE_SYNTAXES
from cxr.errors import DamagedPixels, MissingPixels, UnsupportedPixels
from cxr.pixels.recipe import PixelRecipe

DEFAULT_MAX_MEGAPIXELS: Final = 64
"""Rows x Columns, in millions; a 43 x 43 cm film at 0.1 mm has 18."""

MONOCHROME: Final = frozenset({"MONOCHROME1", "MONOCHROME2"})
"""Photometric interpretations of radiographs."""

_ONE_SAMPLE: Final = MONOCHROME | {"PALETTE COLOR"}
_BITS_ALLOCATED: Final = (1, 8, 16, 32)
_FLOAT_PIXELS: Final = ("FloatPixelData", "DoubleFloatPixelData")

_START_OF_IMAGE: Final = b"\xff\xd8"
_END_OF_IMAGE: Final = b"\xff\xd9"
_START_OF_SCAN: Final = 0xDA
# SOF0 to SOF15 without DHT, JPG and DAC, and SOF55 (JPEG-LS)
_START_OF_FRAME: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD9)})  # TEM, RSTn, SOI

_J2K_START_AND_SIZ: Final = b"\xff\x4f\xff\x51"
_JP2_HEADER_BYTES: Final = 65536  # boxes that may stand before the code stream


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelHeader:
    """Checked Image Pixel Module of an image."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    samples: int
    photometric: str
    planar: int  # 0: colour by pixel, 1: by plane
    syntax: UID

    @property
    def frame_bytes(self) -> int:
        """Length of one native frame, in bytes."""
        samples = self.rows * self.columns * self.samples
        if self.photometric == "YBR_FULL_422":
            samples = samples // 3 * 2
        return (samples * self.bits_allocated + 7) // 8


def check_header(dataset: Dataset, recipe: PixelRecipe, *, max_megapixels: int) -> PixelHeader:
    """Read and check the Image Pixel Module, without reading pixels.

    Raises
    ------
    UnsupportedPixels
        If there is more than one frame, colour that the recipe does not accept, floating-point pixels, Bits
        Allocated other than 1, 8, 16 or 32, a transfer syntax without decoder, or the image is too large.
    MissingPixels
        If the object is not an image.
    DamagedPixels
        If a mandatory element is absent or impossible.
    """
    if any(keyword in dataset for keyword in _FLOAT_PIXELS):
        raise UnsupportedPixels("Received floating-point pixels; accepted are whole numbers of 1, 8, 16 or 32 bits.")
    _check_frames(dataset)
    rows, columns = _required(dataset, "Rows"), _required(dataset, "Columns")
    allocated = _required(dataset, "BitsAllocated")
    if allocated not in _BITS_ALLOCATED:
        raise UnsupportedPixels(f"Received {allocated} bits allocated; accepted are 1, 8, 16 and 32.")
    stored = elements.integer(dataset, "BitsStored") or allocated
    syntax = _syntax(dataset)
    if syntax.is_encapsulated and allocated < stored <= 16:  # the code stream declares its own depth
        allocated = 16
    if not 1 <= stored <= allocated:
        raise DamagedPixels(f"Received {stored} bits stored in {allocated} allocated: have the image exported again.")
    high_bit = elements.integer(dataset, "HighBit")
    photometric = elements.code_string(dataset, "PhotometricInterpretation")
    if photometric is None:
        raise UnsupportedPixels(
            "Photometric Interpretation is absent or empty; accepted are MONOCHROME1 and MONOCHROME2: have the sender "
            "export the image again."
        )
    samples = elements.integer(dataset, "SamplesPerPixel") or (1 if photometric in _ONE_SAMPLE else 3)
    is_possible = high_bit is not None and stored - 1 <= high_bit < allocated
    header = PixelHeader(
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit if is_possible and high_bit is not None else stored - 1,
        is_signed=elements.integer(dataset, "PixelRepresentation") == 1,
        samples=samples,
        photometric=photometric,
        planar=1 if elements.integer(dataset, "PlanarConfiguration") == 1 else 0,
        syntax=syntax,
    )
    _check_size(header, max_megapixels)
    _check_colour(header, recipe)
    return header


def _check_frames(dataset: Dataset) -> None:
    frames = elements.integer(dataset, "NumberOfFrames")
    if frames is None and elements.text(dataset, "NumberOfFrames"):
        raise DamagedPixels("Number of Frames is not a number: have the sender export the image again.")
    if frames is not None and frames > 1:
        raise UnsupportedPixels(f"Received {frames} frames; accepted is one: send single images.")


def _required(dataset: Dataset, keyword: str) -> int:
    value = elements.integer(dataset, keyword)
    if value is None or value < 1:
        if not any(keyword in dataset for keyword in ("PixelData", "Rows")):
            raise MissingPixels("The object is not an image: it has neither pixel data nor Rows; send images.")
        raise DamagedPixels(f"{keyword} is absent, zero or not a number: have the sender export the image again.")
    return value


def _check_size(header: PixelHeader, max_megapixels: int) -> None:
    # Values of 32-bit images are sorted instead of counted, which takes eight times the memory.
    weight = header.samples * (8 if header.bits_allocated > 16 else 1)
    if header.rows * header.columns * weight > max_megapixels * 1_000_000:
        raise UnsupportedPixels(
            f"Received {header.rows} x {header.columns} pixels (counted {weight}-fold); accepted are "
            f"{max_megapixels} megapixels: raise worker.max_megapixels if this is a radiograph."
        )


def _check_colour(header: PixelHeader, recipe: PixelRecipe) -> None:
    if header.samples == 1 and header.photometric in MONOCHROME:
        return
    is_colour = (header.samples, header.photometric == "PALETTE COLOR") in {(3, False), (1, True)}
    if not is_colour or header.photometric in MONOCHROME or header.bits_allocated not in {8, 16}:
        raise UnsupportedPixels(
            "Received neither MONOCHROME1 nor MONOCHROME2 nor 8- or 16-bit colour of three samples: send radiographs."
        )
    if recipe.colour != "luminance":
        raise UnsupportedPixels("Received a colour image; accepted are MONOCHROME1 and MONOCHROME2: send radiographs.")


def _syntax(dataset: Dataset) -> UID:
    """Return the transfer syntax; without file meta information, the one that the reader detected."""
    meta = getattr(dataset, "file_meta", None)
    declared = meta.get("TransferSyntaxUID") if meta is not None else None
    if not declared:
        is_implicit, is_little = dataset.original_encoding
        explicit = ExplicitVRBigEndian if is_little is False else ExplicitVRLittleEndian
        return explicit if is_implicit is False else ImplicitVRLittleEndian
    if declared not in DECODABLE_SYNTAXES:
        raise UnsupportedPixels(
            "Received pixels in a transfer syntax that has no decoder here; accepted are those of the conformance "
            "statement: have the sender convert the image, e.g. to Explicit VR Little Endian."
        )
    return UID(declared)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeStream:
    """Size and precision that a code stream declares."""

    rows: int
    columns: int
    samples: int
    precision: int  # bits per sample

    @property
    def size(self) -> tuple[int, int, int]:
        """Rows, columns and samples per pixel."""
        return self.rows, self.columns, self.samples


def check_code_stream(frame: bytes, syntax: UID, *, rows: int, columns: int, samples: int) -> CodeStream | None:
    """Check the size in a frame's code stream against the header, and that the stream is complete.

    RLE declares no size; its decoder writes into a buffer of the header's size.

    Parameters
    ----------
    frame
        Concatenated fragments of the frame.
    syntax
        An encapsulated transfer syntax.
    rows, columns, samples
        Values of the DICOM header.

    Returns
    -------
    CodeStream | None
        None for RLE.

    Raises
    ------
    DamagedPixels
        If the sizes differ, the frame is not of its transfer syntax, or a JPEG or JPEG-LS stream has no end
        marker.
    """
    if syntax == RLELossless:
        return None
    is_jpeg_2000 = syntax in JPEG2000TransferSyntaxes
    stream = _read_jpeg_2000(frame) if is_jpeg_2000 else _read_jpeg(frame)
    if stream is None:
        raise DamagedPixels(f"The pixel data is not a {syntax.name} stream: have the image exported again.")
    if stream.size != (rows, columns, samples):
        raise DamagedPixels(
            f"The {syntax.name} stream has {stream.rows} x {stream.columns} pixels of {stream.samples} samples where "
            f"the header says {rows} x {columns} of {samples}: have the sender export the image again."
        )
    if not is_jpeg_2000 and not has_end_of_image(frame):
        raise DamagedPixels(
            f"The {syntax.name} stream is cut short: it has no end marker; have the sender send the image again."
        )
    return stream


def has_end_of_image(frame: bytes) -> bool:
    """Check that a JPEG or JPEG-LS stream has an end marker (EOI) after its first scan header.

    Coded data can't contain the marker (T.81 B.1.1.5, T.87 A.1); bytes after it are padding.
    """
    scan = _find_marker(frame, frozenset({_START_OF_SCAN}))
    return scan is not None and frame.find(_END_OF_IMAGE, scan) >= 0


def _read_jpeg(frame: bytes) -> CodeStream | None:
    """Read the first frame header of a JPEG or JPEG-LS stream."""
    position = _find_marker(frame, _START_OF_FRAME)
    if position is None or position + 10 > len(frame):
        return None
    precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, position + 4)
    return CodeStream(rows=rows, columns=columns, samples=samples, precision=precision)


def _find_marker(frame: bytes, markers: frozenset[int]) -> int | None:
    """Return the position of the first of some markers before the first scan's data; None if there is none."""
    position = 2 if frame.startswith(_START_OF_IMAGE) else len(frame)
    while position + 4 <= len(frame):
        if frame[position] != 0xFF:
            return None
        marker = frame[position + 1]
        if marker in markers:
            return position
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        elif marker == _START_OF_SCAN:
            return None
        else:
            position += 2 + max(2, int.from_bytes(frame[position + 2 : position + 4]))
    return None


def _read_jpeg_2000(frame: bytes) -> CodeStream | None:
    """Read the SIZ segment of a JPEG 2000 or HTJ2K code stream, with or without JP2 boxes."""
    start = frame.find(_J2K_START_AND_SIZ, 0, _JP2_HEADER_BYTES)
    if start < 0 or start + 43 > len(frame):
        return None
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    samples, depth = struct.unpack_from(">HB", frame, start + 40)
    return CodeStream(rows=bottom - top, columns=right - left, samples=samples, precision=(depth & 0x7F) + 1)
