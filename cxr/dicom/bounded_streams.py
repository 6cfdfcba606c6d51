"""Streams that end where a dataset grows beyond what is read of one.

pydicom reads what a dataset says that it has. Here is said how much of it there may be.

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
_KEPT_BYTES = 1024 * 1024  # pydicom goes back by some kilobytes at most
MAX_HEADER_BYTES = 32 * 1024 * 1024
# An element or item takes one to three; a radiograph has some hundreds, nested ones included. What is read
# takes up to 700 bytes of memory for 8 of the file.
_MAX_PIECES = 128 * 1024


class _Source(Protocol):
    """What is read from."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, whence: int = ..., /) -> int: ...

    def tell(self) -> int: ...


class Metered:
    """A stream that gives no more than a header may have, in bytes and in pieces, nested ones included.

    pydicom makes an object of every element and every item of a sequence: a few megabytes of empty
    items would take gigabytes of memory and minutes.

    Parameters
    ----------
    source
        What is read from, at its place.
    max_bytes
        How much is read of it, in bytes.
    max_pieces
        How many reads are allowed; an element or an item takes one to three.
    """

    def __init__(self, source: _Source, max_bytes: int = MAX_HEADER_BYTES, max_pieces: int = _MAX_PIECES) -> None:
        self._source = source
        self._bytes_left = max_bytes
        self._pieces_left = max_pieces
        self.seek = source.seek
        self.tell = source.tell
        self.name = getattr(source, "name", "header")

    def read(self, size: int) -> bytes:
        """Read one piece.

        Raises
        ------
        InvalidDicomError
            If it is one too many, or everything is asked for at once.
        ObjectTooLarge
            If it goes beyond the bytes that may be read.
        """
        self._pieces_left -= 1
        if size < 0 or self._pieces_left < 0:
            raise InvalidDicomError
        piece = self._source.read(min(size, self._bytes_left + 1))
        self._bytes_left -= len(piece)
        if self._bytes_left < 0:
            raise ObjectTooLarge(
                f"The dataset has more than {MAX_HEADER_BYTES // 1024**2} MiB in front of its pixels, which no "
                "radiograph has: have the sender leave out private elements."
            )
        return piece


class Inflated:
    """A deflated dataset as a seekable stream that inflates only as far as it is read.

    What lies more than a megabyte behind is forgotten, so that an element that is skipped takes no
    memory, however far it swells.

    Parameters
    ----------
    source
        The file, at the beginning of the dataset.
    limit
        How far it may swell, in bytes.
    """

    name = "deflated"

    def __init__(self, source: BinaryIO, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._held = bytearray()
        self._held_from = 0  # where in the dataset they begin
        self._at = 0

    def read(self, size: int) -> bytes:
        """Read on; fewer bytes at the end.

        Raises
        ------
        InvalidDicomError
            If the place is one that is forgotten.
        ObjectTooLarge
            If the dataset swells beyond the limit before.
        """
        self._inflate_until(self._at + size)
        start = self._at - self._held_from
        if start < 0:
            raise InvalidDicomError
        with memoryview(self._held) as held:
            piece = bytes(held[start : start + size])
        self._at += len(piece)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; nothing is inflated before it is read."""
        self._at = offset + (self._at if whence == os.SEEK_CUR else 0)
        return self._at

    def tell(self) -> int:
        """Say the place, in inflated bytes."""
        return self._at

    def _inflate_until(self, position: int) -> None:
        while (end := self._held_from + len(self._held)) < position and not self._inflater.eof:
            if end >= self._limit:
                raise ObjectTooLarge(
                    f"The deflated dataset swells beyond {self._limit} bytes before its pixels; smaller ones are "
                    "accepted: have the sender use another transfer syntax, or raise listener.max_object_mib."
                )
            deflated = self._inflater.unconsumed_tail or self._source.read(_CHUNK_BYTES)
            if not deflated:
                return
            self._held += self._inflater.decompress(deflated, _CHUNK_BYTES)
            self._forget()

    def _forget(self) -> None:
        behind = min(self._at - self._held_from, len(self._held)) - _KEPT_BYTES
        if behind >= _KEPT_BYTES:
            del self._held[:behind]
            self._held_from += behind
