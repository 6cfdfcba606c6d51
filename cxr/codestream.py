"""The header of a compressed frame's code stream, read before any decoder sees it.

A decoder believes the code stream, not the DICOM header: a stream that promises 65,500 x 65,500
makes it allocate gigabytes for an image whose header says 512 x 512, and one that ends early keeps some
decoders busy for minutes.

References
----------
ITU-T T.81 B.2.2 (JPEG frame header), T.87 C.2.2 (JPEG-LS), T.800 A.5.1 (JPEG 2000 SIZ)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from pydicom.uid import UID, JPEG2000TransferSyntaxes, RLELossless

from cxr.errors import DamagedPixels

_START_OF_IMAGE: Final = b"\xff\xd8"
_END_OF_IMAGE: Final = b"\xff\xd9"
_START_OF_SCAN: Final = 0xDA
# SOF0 to SOF15 without DHT, JPG and DAC, and SOF55 (JPEG-LS)
_START_OF_FRAME: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD9)})  # TEM, RSTn, SOI

_J2K_START_AND_SIZ: Final = b"\xff\x4f\xff\x51"
_JP2_HEADER_BYTES: Final = 65536  # boxes that may stand before the code stream


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeStream:
    """What a code stream says of its image."""

    rows: int
    columns: int
    samples: int
    precision: int  # bits per sample

    @property
    def size(self) -> tuple[int, int, int]:
        """Rows, columns and samples per pixel."""
        return self.rows, self.columns, self.samples


def check_code_stream(frame: bytes, syntax: UID, *, rows: int, columns: int, samples: int) -> CodeStream | None:
    """Refuse a frame whose own size is not the header's, or that ends early.

    RLE tells no size; its decoder writes into a buffer of the header's.

    Parameters
    ----------
    frame
        The frame: all its fragments.
    syntax
        An encapsulated transfer syntax.
    rows, columns, samples
        Of the DICOM header.

    Returns
    -------
    CodeStream | None
        What the code stream says; None for RLE.

    Raises
    ------
    DamagedPixels
        If the sizes differ, the frame does not begin as its transfer syntax says, or a JPEG or JPEG-LS stream
        has no end.
    """
    if syntax == RLELossless:
        return None
    is_jpeg_2000 = syntax in JPEG2000TransferSyntaxes
    stream = _read_jpeg_2000(frame) if is_jpeg_2000 else _read_jpeg(frame)
    if stream is None:
        raise DamagedPixels(f"The pixel data does not begin as {syntax.name} does: have the image exported again.")
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
    """Check that a JPEG or JPEG-LS stream has its end marker (EOI) behind its first scan.

    Coded data can't contain the marker (T.81 B.1.1.5, T.87 A.1), and what stands behind it is padding.
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


def _find_marker(frame: bytes, wanted: frozenset[int]) -> int | None:
    """Find the first of some markers in front of the first scan's data; None if there is none."""
    position = 2 if frame.startswith(_START_OF_IMAGE) else len(frame)
    while position + 4 <= len(frame):
        if frame[position] != 0xFF:
            return None
        marker = frame[position + 1]
        if marker in wanted:
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
    """Read the SIZ segment of a JPEG 2000 or HTJ2K code stream, in JP2 boxes or bare."""
    start = frame.find(_J2K_START_AND_SIZ, 0, _JP2_HEADER_BYTES)
    if start < 0 or start + 43 > len(frame):
        return None
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    samples, depth = struct.unpack_from(">HB", frame, start + 40)
    return CodeStream(rows=bottom - top, columns=right - left, samples=samples, precision=(depth & 0x7F) + 1)
