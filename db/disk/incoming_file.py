"""One object while it arrives."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from blake3 import blake3

from db.disk.durable import create_file, translate_disk_errors, write_all

# Fragments of 16 KiB (a usual PDU) are gathered, larger ones pass at once; per association in flight.
_BUFFER_BYTES = 256 * 1024


class IncomingFile:
    """A file of the spool that is being written, and the digest of the dataset in it.

    Made by `db.disk.spool.Spool.open_incoming`. Write the preamble and file meta information with
    `write_header`, the dataset's fragments, in order, with `write`; then either `Spool.keep` or
    `discard`. As a context manager it discards what was not kept, so a cut transfer leaves nothing.
    One thread at a time may use it.

    Parameters
    ----------
    path
        Where it is written; must not exist, in a folder that does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hasher = blake3()
        self._size = 0
        self._pending = bytearray()
        with translate_disk_errors():
            self._descriptor: int | None = create_file(path)

    @property
    def name(self) -> str:
        """The path as a string, as file objects have it."""
        return str(self.path)

    @property
    def size(self) -> int:
        """Bytes of the dataset so far; header bytes don't count."""
        return self._size

    @property
    def digest(self) -> str:
        """BLAKE3 of the dataset's bytes so far, in hex; header bytes don't count."""
        return self._hasher.hexdigest()

    @property
    def closed(self) -> bool:
        """Whether it was kept or discarded."""
        return self._descriptor is None

    def write_header(self, data: bytes) -> None:
        """Append bytes that are ours and not the peer's: preamble and file meta information.

        Raises
        ------
        SpoolFull
            If the disk refuses.
        """
        self._append(data)

    def write(self, data: bytes | memoryview) -> int:
        """Append one fragment of the dataset; no flush per fragment.

        Returns
        -------
        int
            How many bytes were taken: all.

        Raises
        ------
        SpoolFull
            If the disk refuses; `discard` the file then.
        """
        self._append(data)
        self._hasher.update(data)
        self._size += len(data)
        return len(data)

    def flush(self) -> None:
        """Hand everything to the operating system, so that a reader of `path` sees it (not yet durable).

        Raises
        ------
        SpoolFull
            If the disk refuses.
        """
        pending, self._pending = self._pending, bytearray()
        with translate_disk_errors():
            write_all(self._open_descriptor(), pending)

    def sync_and_close(self) -> None:
        """Put the file on the platter and close it; for `Spool.keep`.

        Raises
        ------
        SpoolFull
            If the disk refuses; the file is still there, to be discarded.
        """
        self.flush()
        with translate_disk_errors():
            os.fsync(self._open_descriptor())
        self._close()

    def discard(self) -> None:
        """Close and remove the file; after `Spool.keep`, or twice, it does nothing.

        A disk that has become read-only keeps it until the next sweep.
        """
        self._pending.clear()
        if self._close():
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> IncomingFile:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    def _append(self, data: bytes | memoryview) -> None:
        if self._descriptor is None:
            raise ValueError("This object was kept or discarded already: nothing can be appended to it.")
        self._pending += data
        if len(self._pending) >= _BUFFER_BYTES:
            self.flush()

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise ValueError("This object was kept or discarded already: open another.")
        return self._descriptor

    def _close(self) -> bool:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return False
        os.close(descriptor)
        return True
