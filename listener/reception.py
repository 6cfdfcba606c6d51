"""Reception of one data set from the network into a file of the spool.

References
----------
DICOM PS3.10 Section 7.1 (preamble and file meta information)
"""

from __future__ import annotations

import struct

from cxr import product
from cxr.errors import IntakeError, ObjectTooLarge, SpoolFull
from db.disk import IncomingFile, Spool

_PREAMBLE = bytes(128) + b"DICM"
_SPACE_CHECK_BYTES = 4 * 1024 * 1024


class TransferTooLong(Exception):  # noqa: N818 (a breach by the peer, not an error of ours)
    """The peer has sent more than twice the size limit; only an abort stops it."""


class Reception:
    """The data set of one C-STORE request while it arrives.

    Accepts fragments also after a fault: the fault is raised when the request is complete, so that the peer
    receives a status and the association continues. Used by one thread at a time.

    Parameters
    ----------
    spool
        Receives the file.
    header
        Preamble and file meta information, see `file_header`.
    limit_bytes
        Largest accepted data set, in bytes.
    """

    def __init__(self, spool: Spool, header: bytes, limit_bytes: int) -> None:
        self._spool = spool
        self._limit = limit_bytes
        self._file: IncomingFile | None = None
        self._fault: Exception | None = None
        self._next_check = _SPACE_CHECK_BYTES
        self.size = 0
        try:
            self._check_space()
            self._file = spool.open_incoming()
            self._file.write_header(header)
        except (IntakeError, OSError) as error:
            self._fail(error)

    def write(self, fragment: memoryview) -> None:
        """Write one fragment.

        Raises
        ------
        TransferTooLong
            If more than twice the limit has arrived.
        """
        self.size += len(fragment)
        if self.size > 2 * self._limit:
            self.discard()
            raise TransferTooLong
        if self._fault is not None or self._file is None:
            return
        try:
            self._check_size()
            self._file.write(fragment)
        except (IntakeError, OSError) as error:
            self._fail(error)

    def complete(self) -> IncomingFile:
        """Flush and return the file: it can be read at its path, but is not synced yet.

        Raises
        ------
        ObjectTooLarge
            If the data set is larger than the limit.
        SpoolFull
            If the disk is full, or has too little free space.
        OSError
            If writing failed for another reason.
        """
        if self._fault is None and self._file is not None:
            self._file.flush()
            return self._file
        raise self._fault or SpoolFull("This object was discarded: the sender may try again.")

    def discard(self) -> None:
        """Remove the file from the spool's incoming folder; a file that was kept stays."""
        if self._file is not None:
            self._file.discard()

    def _check_size(self) -> None:
        if self.size > self._limit:
            raise ObjectTooLarge(
                f"Received more than {self._limit} bytes; objects up to that size are accepted. "
                "Raise listener.max_object_mib if larger ones are wanted."
            )
        if self.size >= self._next_check:
            self._next_check = self.size + _SPACE_CHECK_BYTES
            self._check_space()

    def _check_space(self) -> None:
        if self._spool.is_full():
            raise SpoolFull(
                f"{self._spool.free_mib()} MiB are free, fewer than listener.min_free_mib: "
                "free some space, the sender may try again."
            )

    def _fail(self, error: Exception) -> None:
        self._fault = error
        self.discard()


def file_header(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Encode preamble and file meta information of a received data set.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid
        UIDs of the command set; empty: left out.
    transfer_syntax_uid
        Transfer syntax of the accepted presentation context.

    Returns
    -------
    bytes
        In Explicit VR Little Endian. Not encoded by pydicom, which warns about or refuses invalid UIDs that
        are frequent in archives.
    """
    uids = (
        _element(0x0002, b"UI", sop_class_uid.encode("ascii")) if sop_class_uid else b"",
        _element(0x0003, b"UI", sop_instance_uid.encode("ascii")) if sop_instance_uid else b"",
        _element(0x0010, b"UI", transfer_syntax_uid.encode("ascii")),
        _element(0x0012, b"UI", product.IMPLEMENTATION_CLASS_UID.encode("ascii")),
        _element(0x0013, b"SH", product.IMPLEMENTATION_VERSION_NAME.encode("ascii")),
    )
    version = struct.pack("<HH2sxxL2s", 2, 0x0001, b"OB", 2, b"\x00\x01")
    group = version + b"".join(uids)
    return _PREAMBLE + _element(0x0000, b"UL", struct.pack("<L", len(group))) + group


def _element(element: int, value_representation: bytes, value: bytes) -> bytes:
    """Encode one element of group 0002 whose length field has 16 bits (PS3.5 Section 7.1.2)."""
    padding = b"\x00" if value_representation == b"UI" else b" "
    padded = value + padding * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, value_representation, len(padded)) + padded
