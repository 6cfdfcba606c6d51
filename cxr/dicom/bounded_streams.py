"""Streams that bound the bytes and reads of one dataset.

pydicom trusts the lengths that a dataset declares; these streams raise where a dataset exceeds its bounds.

References
----------
DICOM PS3.5 Section A.5 (deflated transfer syntax)
"""

from __future__ import annotations

import os
import zlib
from typing import BinaryIO, Protocol

from pydicom.errors import InvalidDicomError

from cxr.errors import ObjectTooLarge

_CHUNK_BYTES = 64 * 1024
_KEPT_BYTES = 1024 * 1024  # pydicom seeks back by some kilobytes at most
MAX_HEADER_BYTES = 32 * 1024 * 1024
# An element or item takes one to three reads; a radiograph has some hundreds, nested ones included. One of 8 bytes
# in the file takes up to 700 bytes of memory.
_MAX_READS = 128 * 1024


class _Source(Protocol):
    """A seekable binary stream."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, whence: int = ..., /) -> int: ...

    def tell(self) -> int: ...


class MeteredStream:
    """A stream that bounds bytes and reads, those of nested elements included.

    pydicom creates an object for every element and sequence item: a few megabytes of empty items would
    take gigabytes of memory and minutes.

    Parameters
    ----------
    source
        The stream to read, from its current position.
    max_bytes
        Most bytes that are read.
    max_reads
        Most calls of ``read``; an element or an item takes one to three.
    """

    def __init__(self, source: _Source, max_bytes: int = MAX_HEADER_BYTES, max_reads: int = _MAX_READS) -> None:
        self._source = source
        self._bytes_left = max_bytes
        self._reads_left = max_reads
        self._position = source.tell()
        self.name = getattr(source, "name", "header")

    def read(self, size: int) -> bytes:
        """Read at most ``size`` bytes.

        Raises
        ------
        InvalidDicomError
            If there are too many reads, or ``size`` is negative (read to the end).
        ObjectTooLarge
            If more than ``max_bytes`` would be read.
        """
        self._reads_left -= 1
        if size < 0 or self._reads_left < 0:
            raise InvalidDicomError
        piece = self._source.read(min(size, self._bytes_left + 1))
        self._position += len(piece)
        self._bytes_left -= len(piece)
        if self._bytes_left < 0:
            raise ObjectTooLarge(
                f"The dataset has more than {MAX_HEADER_BYTES // 1024**2} MiB in front of its pixels, which no "
                "radiograph has: have the sender leave out private elements."
            )
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position in the source."""
        self._position = self._source.seek(offset, whence)
        return self._position

    def tell(self) -> int:
        """Return the position, without a call of the operating system, which pydicom would make for each element."""
        return self._position


class InflatedStream:
    """A deflated dataset as a seekable stream that inflates on demand.

    Bytes more than 1 MiB before the position are dropped, so that a skipped element takes no memory,
    whatever its inflated length.

    Parameters
    ----------
    source
        The file, positioned at the first byte of the dataset.
    limit
        Most bytes of the inflated dataset.
    """

    name = "deflated"

    def __init__(self, source: BinaryIO, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._buffer = bytearray()
        self._buffer_start = 0  # its offset in the inflated dataset
        self._position = 0

    def read(self, size: int) -> bytes:
        """Read ``size`` bytes, or fewer at the end.

        Raises
        ------
        InvalidDicomError
            If the position lies in the dropped bytes.
        ObjectTooLarge
            If the inflated dataset exceeds the limit before the position.
        """
        self._inflate_until(self._position + size)
        start = self._position - self._buffer_start
        if start < 0:
            raise InvalidDicomError
        with memoryview(self._buffer) as buffer:
            piece = bytes(buffer[start : start + size])
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, relative to the start or the current one; inflate nothing."""
        self._position = offset + (self._position if whence == os.SEEK_CUR else 0)
        return self._position

    def tell(self) -> int:
        """Return the position, in inflated bytes."""
        return self._position

    def _inflate_until(self, position: int) -> None:
        while (end := self._buffer_start + len(self._buffer)) < position and not self._inflater.eof:
            if end >= self._limit:
                raise ObjectTooLarge(
                    f"The deflated dataset swells beyond {self._limit} bytes before its pixels; smaller ones are "
                    "accepted: have the sender use another transfer syntax, or raise listener.max_object_mib."
                )
            deflated = self._inflater.unconsumed_tail or self._source.read(_CHUNK_BYTES)
            if not deflated:
                return
            self._buffer += self._inflater.decompress(deflated, _CHUNK_BYTES)
            self._drop_old_bytes()

    def _drop_old_bytes(self) -> None:
        surplus = min(self._position - self._buffer_start, len(self._buffer)) - _KEPT_BYTES
        if surplus >= _KEPT_BYTES:
            del self._buffer[:surplus]
            self._buffer_start += surplus
