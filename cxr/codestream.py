"""What a compressed frame says of its own size, read before any decoder sees it.

A decoder believes the code stream, not the DICOM header: a stream that promises 65,500 x 65,500
makes it allocate gigabytes for an image whose header says 512 x 512.

References
----------
ITU-T T.81 B.2.2 (JPEG frame header), T.87 C.2.2 (JPEG-LS), T.800 A.5.1 (JPEG 2000 SIZ)
"""

from __future__ import annotations

import struct
from typing import Final

from pydicom.uid import UID, JPEG2000TransferSyntaxes, RLELossless

from cxr.errors import DamagedPixels

_START_OF_IMAGE: Final = b"\xff\xd8"
_START_OF_SCAN: Final = 0xDA
# SOF0 to SOF15 without DHT, JPG and DAC, and SOF55 (JPEG-LS)
_START_OF_FRAME: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD9)})  # TEM, RSTn, SOI

_J2K_START_AND_SIZ: Final = b"\xff\x4f\xff\x51"
_JP2_HEADER_BYTES: Final = 65536  # boxes that may stand before the code stream


def check_code_stream(frame: bytes, syntax: UID, *, rows: int, columns: int, samples: int) -> None:
    """Refuse a frame whose own size is not the header's.

    RLE tells no size; its decoder writes into a buffer of the header's.

    Raises
    ------
    DamagedPixels
        If the sizes differ, or the frame does not begin as its transfer syntax says.
    """
    if syntax == RLELossless:
        return
    size = _jpeg_2000_size(frame) if syntax in JPEG2000TransferSyntaxes else _jpeg_size(frame)
    if size is None:
        raise DamagedPixels(f"The pixel data does not begin as {syntax.name} does: have the image exported again.")
    if size != (rows, columns, samples):
        raise DamagedPixels(
            f"The {syntax.name} stream has {size[0]} x {size[1]} pixels of {size[2]} samples where the header says "
            f"{rows} x {columns} of {samples}: have the sender export the image again."
        )


def _jpeg_size(frame: bytes) -> tuple[int, int, int] | None:
    """Give (rows, columns, samples) of the first frame header of a JPEG or JPEG-LS stream."""
    position = 2 if frame.startswith(_START_OF_IMAGE) else len(frame)
    while position + 9 < len(frame):
        if frame[position] != 0xFF:
            return None
        marker = frame[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        elif marker in _START_OF_FRAME:
            rows, columns, samples = struct.unpack_from(">HHB", frame, position + 5)
            return rows, columns, samples
        elif marker == _START_OF_SCAN:
            return None
        else:
            position += 2 + max(2, int.from_bytes(frame[position + 2 : position + 4]))
    return None


def _jpeg_2000_size(frame: bytes) -> tuple[int, int, int] | None:
    """Give (rows, columns, samples) of a JPEG 2000 or HTJ2K code stream, in JP2 boxes or bare."""
    start = frame.find(_J2K_START_AND_SIZ, 0, _JP2_HEADER_BYTES)
    if start < 0 or start + 42 > len(frame):
        return None
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    (samples,) = struct.unpack_from(">H", frame, start + 40)
    return bottom - top, right - left, samples
