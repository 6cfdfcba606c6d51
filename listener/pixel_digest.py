"""Digest of an object's pixel data, equal for the same pixels under another header.

References
----------
DICOM PS3.5 Sections 7.1 (element structure) and A.4 (encapsulated pixel data)
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cxr.dicom import HeaderDataset
from cxr.errors import ObjectTooLarge, UnparsableObject

_CHUNK_BYTES = 1024 * 1024
_UNDEFINED = 0xFFFFFFFF
_ITEM = 0xFFFEE000
_SEQUENCE_END = 0xFFFEE0DD

_Read = Callable[[int], bytes]


def pixel_digest(path: Path, dataset: HeaderDataset, *, dataset_at: int, max_inflated_bytes: int) -> str | None:
    """Return the BLAKE3 digest of the pixel data element's value, in constant memory.

    Parameters
    ----------
    path
        File of a received object.
    dataset
        The same object, parsed up to its pixel data.
    dataset_at
        Offset of its data set in the file, in bytes.
    max_inflated_bytes
        Largest size of a deflated data set after inflation, in bytes.

    Returns
    -------
    str or None
        Hexadecimal; of encapsulated pixel data over all items with their headers. A value that is shorter than
        its length field is digested up to its end. None: the object has no pixel data.

    Raises
    ------
    UnparsableObject
        If a deflated data set can't be inflated, or the file ends in the header of the element.
    ObjectTooLarge
        If a deflated data set exceeds `max_inflated_bytes`.
    OSError
        If the file can't be read.
    """
    if not dataset.has_pixel_data:
        return None
    with path.open("rb") as stream:
        try:
            return _digest(_reader(stream, dataset, dataset_at, max_inflated_bytes), *dataset.original_encoding)
        except (zlib.error, struct.error) as error:
            raise UnparsableObject(
                "The received data set ends, or can't be inflated, at its pixel data; accepted is a complete one: "
                "have the sender send the image again."
            ) from error


def _reader(stream: BinaryIO, dataset: HeaderDataset, dataset_at: int, max_inflated_bytes: int) -> _Read:
    """Return a function that reads from the pixel data element on."""
    if dataset.file_meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        stream.seek(dataset.pixels_at)
        return stream.read
    stream.seek(dataset_at)
    inflated = _InflatedStream(stream, max_inflated_bytes)
    to_skip = dataset.pixels_at
    while to_skip > 0 and (skipped := inflated.read(min(to_skip, _CHUNK_BYTES))):
        to_skip -= len(skipped)
    return inflated.read


class _InflatedStream:
    """Forward reader of a deflated stream that buffers about one chunk."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream = stream
        self._left = limit
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._buffer = b""

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size and not self._inflater.eof:
            deflated = self._inflater.unconsumed_tail or self._stream.read(_CHUNK_BYTES)
            if not deflated:
                break
            inflated = self._inflater.decompress(deflated, _CHUNK_BYTES)
            self._left -= len(inflated)
            if self._left < 0:
                raise ObjectTooLarge(
                    "The deflated data set is larger than the accepted size when inflated: have the sender use "
                    "another transfer syntax, or raise listener.max_object_mib."
                )
            self._buffer += inflated
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        return piece


def _digest(read: _Read, is_implicit: bool, is_little: bool) -> str:
    order = "<" if is_little else ">"
    _, _, length = struct.unpack(f"{order}HHL", read(8))
    if not is_implicit:
        # VR and two reserved bytes stand in place of the length of an implicit VR element.
        (length,) = struct.unpack(f"{order}L", read(4))
    hasher = blake3()
    if length != _UNDEFINED:
        _hash_bytes(read, length, hasher)
    else:
        _hash_items(read, hasher)
    return hasher.hexdigest()


def _hash_bytes(read: _Read, length: int, hasher: blake3) -> bool:
    """Hash `length` bytes; False: the stream has fewer."""
    while length > 0:
        piece = read(min(length, _CHUNK_BYTES))
        if not piece:
            return False
        hasher.update(piece)
        length -= len(piece)
    return True


def _hash_items(read: _Read, hasher: blake3) -> None:
    while len(header := read(8)) == 8:
        group, element, length = struct.unpack("<HHL", header)  # encapsulation is always little endian
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            return
        hasher.update(header)
        if tag != _ITEM or length == _UNDEFINED or not _hash_bytes(read, length, hasher):
            return
