"""The file of one object while it is received."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from blake3 import blake3

from db.disk.durable import create_file, translate_disk_errors, write_all

# Smaller fragments (a PDU is usually 16 KiB) are buffered; one buffer per association.
_BUFFER_BYTES = 256 * 1024


class IncomingFile:
    """A file of the spool that is being written, with the digest of its dataset.

    Created by `db.disk.spool.Spool.open_incoming`. Write the preamble and file meta information with
    `write_header` and the dataset's fragments, in order, with `write`; then call `Spool.keep` or
    `discard`. The context manager discards a file that was not kept, so an aborted transfer leaves none.
    Not thread-safe.

    Parameters
    ----------
    path
        File to create, in a folder that exists.
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
        """The path as a string, like that of a file object."""
        return str(self.path)

    @property
    def size(self) -> int:
        """Bytes of the dataset written so far, without the header."""
        return self._size

    @property
    def digest(self) -> str:
        """BLAKE3 of the dataset's bytes written so far, in hex, without the header."""
        return self._hasher.hexdigest()

    @property
    def closed(self) -> bool:
        """Whether the file was kept or discarded."""
        return self._descriptor is None

    def write_header(self, data: bytes) -> None:
        """Append the preamble and file meta information, which the service writes itself.

        Raises
        ------
        SpoolFull
            If the disk refuses.
        """
        self._append(data)

    def write(self, data: bytes | memoryview) -> int:
        """Append one fragment of the dataset, without a flush.

        Returns
        -------
        int
            Number of bytes written: always all.

        Raises
        ------
        SpoolFull
            If the disk refuses; then call `discard`.
        """
        self._append(data)
        self._hasher.update(data)
        self._size += len(data)
        return len(data)

    def flush(self) -> None:
        """Pass all buffered bytes to the operating system: readers of `path` see them, but they are not durable yet.

        Raises
        ------
        SpoolFull
            If the disk refuses.
        """
        pending, self._pending = self._pending, bytearray()
        with translate_disk_errors():
            write_all(self._open_descriptor(), pending)

    def sync_and_close(self) -> None:
        """Fsync and close the file; for `Spool.keep`.

        Raises
        ------
        SpoolFull
            If the disk refuses; the file stays until it is discarded.
        """
        self.flush()
        with translate_disk_errors():
            os.fsync(self._open_descriptor())
        self._close()

    def discard(self) -> None:
        """Close and remove the file; no effect after `Spool.keep` or a second time.

        On a disk that has become read-only the file stays until the next sweep.
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
