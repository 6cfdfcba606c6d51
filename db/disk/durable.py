"""Writes that are on the platter when they return, and what a disk that refuses them becomes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cxr.errors import SpoolFull

FILE_MODE = 0o600
FOLDER_MODE = 0o700

# The disk says no, for now or for good: full, over quota, read-only, failing, or a file size limit.
_REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})
# The spool's folders are made once, at start; a folder that is gone is a disk that is not mounted.
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})


@contextmanager
def translate_disk_errors() -> Iterator[None]:
    """Turn a disk's refusal into `SpoolFull`; any other fault passes unchanged.

    Raises
    ------
    SpoolFull
        If the disk is full, over quota, read-only, failing or not mounted.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _REFUSALS:
            raise SpoolFull(
                f"The disk of the spool refused a write ({errno.errorcode[error.errno]}): free or repair it; "
                "the sender may try again."
            ) from error
        if error.errno in _ABSENT:
            raise SpoolFull(
                "A folder of the spool is gone: mount the spool's disk and restart the service; "
                "the sender may try again."
            ) from error
        raise


def create_file(path: Path) -> int:
    """Create a file that only its owner may read.

    Returns
    -------
    int
        Its descriptor, open for writing.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    """Write every byte, however many calls it takes."""
    with memoryview(data) as whole:
        written = 0
        while written < len(whole):
            written += os.write(descriptor, whole[written:])


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the platter: a rename is durable only after this."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, that only their owner may enter; one that exists stays as it is."""
    missing = [folder, *folder.parents]
    for each in reversed([path for path in missing if not path.exists()]):
        each.mkdir(mode=FOLDER_MODE, exist_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Create a file durably, folder entry included.

    Raises
    ------
    FileExistsError
        If there is one already.
    """
    descriptor = create_file(path)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)
