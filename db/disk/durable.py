"""Durable writes, and the translation of disk errors."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cxr.errors import SpoolFull
from cxr.folder_sync import sync_folder

FILE_MODE = 0o600
FOLDER_MODE = 0o700

# Errors of the disk itself: full, over quota, read-only, failing, or a file size limit.
_REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})
# The spool's folders are created once, at start; a missing folder means that the disk is not mounted.
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})


@contextmanager
def translate_disk_errors() -> Iterator[None]:
    """Raise `SpoolFull` for errors of the disk; other errors pass unchanged.

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


@contextmanager
def whole_file(path: Path, *, draft_suffix: str | None = None, mode: int = FILE_MODE) -> Iterator[Path]:
    """Write a file under a draft name beside it, then fsync it, rename it and fsync the folder.

    A reader sees the previous file or the complete new one. If the block raises, the draft is removed and the
    previous file stays.

    Parameters
    ----------
    path
        File to create or replace; its folder exists.
    draft_suffix
        Suffix of the draft's name, for one writer at a time; a draft left by a killed process is replaced.
        None: a random name, so that several processes may write the same file.
    mode
        Permissions of a new file, before the umask.

    Yields
    ------
    Path
        The draft, created empty.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    draft = path.with_name(f".{path.name}.{draft_suffix or secrets.token_hex(8)}")
    draft.unlink(missing_ok=True)
    try:
        os.close(create_file(draft, mode=mode))
        yield draft
        _sync_file(draft)
        draft.rename(path)
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def create_once(path: Path, data: bytes) -> None:
    """Create a file durably with all its content, unless another process has created it first.

    Parameters
    ----------
    path
        File to create; an existing file stays as it is.
    data
        Its whole content.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        write_file(draft, data)
        path.hardlink_to(draft)
        sync_folder(path.parent)
    except FileExistsError:
        return
    finally:
        draft.unlink(missing_ok=True)


def create_file(path: Path, *, mode: int = FILE_MODE) -> int:
    """Create a file, by default readable by its owner only.

    Returns
    -------
    int
        Its descriptor, open for writing.

    Raises
    ------
    FileExistsError
        If the file exists.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    """Write all bytes; one ``write`` may write fewer."""
    with memoryview(data) as view:
        written = 0
        while written < len(view):
            written += os.write(descriptor, view[written:])


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, accessible to their owner only; existing ones stay unchanged."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=FOLDER_MODE, exist_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Create a file durably, its folder entry included.

    Raises
    ------
    FileExistsError
        If the file exists.
    """
    descriptor = create_file(path)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
