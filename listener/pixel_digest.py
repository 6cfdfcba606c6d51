"""The digest of an object's pixels: the same pixels under another header are the same pixels.

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
    """Digest the value of the pixel data element, in constant memory.

    Parameters
    ----------
    path
        A received object.
    dataset
        The same object, read up to its pixels.
    dataset_at
        Where its data set begins in the file, in bytes.
    max_inflated_bytes
        How far a deflated data set may swell.

    Returns
    -------
    str or None
        BLAKE3, hex, of the value's bytes: for encapsulated pixels of all items, their headers
        included. A value that is shorter than announced is digested as far as it goes. None: the
        object has no pixels.

    Raises
    ------
    UnparsableObject
        If a deflated data set does not inflate, or the file ends at its pixels.
    ObjectTooLarge
        If a deflated data set swells beyond the bound.
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
                "The received data set ends, or stops to inflate, at its pixels; accepted is a complete one: "
                "have the sender send the image again."
            ) from error


def _reader(stream: BinaryIO, dataset: HeaderDataset, dataset_at: int, max_inflated_bytes: int) -> _Read:
    """Return a way to read on from the pixel data element."""
    if dataset.file_meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        stream.seek(dataset.pixels_at)
        return stream.read
    stream.seek(dataset_at)
    inflating = _Inflating(stream, max_inflated_bytes)
    left = dataset.pixels_at
    while left > 0 and (skipped := inflating.read(min(left, _CHUNK_BYTES))):
        left -= len(skipped)
    return inflating.read


class _Inflating:
    """Reads a deflated stream forward, keeping no more than a chunk of it."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream = stream
        self._left = limit
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._held = b""

    def read(self, size: int) -> bytes:
        while len(self._held) < size and not self._inflater.eof:
            deflated = self._inflater.unconsumed_tail or self._stream.read(_CHUNK_BYTES)
            if not deflated:
                break
            inflated = self._inflater.decompress(deflated, _CHUNK_BYTES)
            self._left -= len(inflated)
            if self._left < 0:
                raise ObjectTooLarge(
                    "The deflated data set swells beyond the size of an object that is accepted: have the sender use "
                    "another transfer syntax, or raise listener.max_object_mib."
                )
            self._held += inflated
        piece, self._held = self._held[:size], self._held[size:]
        return piece


def _digest(read: _Read, is_implicit: bool, is_little: bool) -> str:
    order = "<" if is_little else ">"
    _, _, length = struct.unpack(f"{order}HHL", read(8))
    if not is_implicit:
        # Two bytes of VR and two reserved ones stood where an implicit VR has the length.
        (length,) = struct.unpack(f"{order}L", read(4))
    hasher = blake3()
    if length != _UNDEFINED:
        _copy(read, length, hasher)
    else:
        _copy_items(read, hasher)
    return hasher.hexdigest()


def _copy(read: _Read, length: int, hasher: blake3) -> bool:
    """Digest so many bytes; False: there were fewer."""
    while length > 0:
        piece = read(min(length, _CHUNK_BYTES))
        if not piece:
            return False
        hasher.update(piece)
        length -= len(piece)
    return True


def _copy_items(read: _Read, hasher: blake3) -> None:
    while len(header := read(8)) == 8:
        group, element, length = struct.unpack("<HHL", header)  # encapsulation is always little endian
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            return
        hasher.update(header)
        if tag != _ITEM or length == _UNDEFINED or not _copy(read, length, hasher):
            return
