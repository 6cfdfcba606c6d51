"""Notification of writes to the database's files by processes of this machine (Linux, inotify).

The notification comes with the write, before its commit, so the reader polls for a while afterwards.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from db.disk.file_systems import shared_file_system

COMMIT_S: Final = 1.0
"""Maximum duration of a commit, from its first write, in seconds."""
_IN_MODIFY: Final = 0x00000002
_BYTES: Final = 65536


class WriteNotice:
    """Notifications of writes to one database; none without inotify or on a shared file system.

    Parameters
    ----------
    path
        The live database; its write-ahead log should exist already.

    References
    ----------
    inotify(7)
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = _watch(path)
        self._noticed_at = time.monotonic()

    @property
    def is_quiet(self) -> bool:
        """Whether notifications work, and the last one is so old that its commit has ended."""
        return self._descriptor is not None and time.monotonic() - self._noticed_at > COMMIT_S

    def wait(self, timeout_s: float) -> bool:
        """Wait for a write; return whether there was one."""
        if self._descriptor is None:
            return False
        if not select.select([self._descriptor], [], [], timeout_s)[0]:
            return False
        with suppress(BlockingIOError):
            while os.read(self._descriptor, _BYTES):
                continue
        self._noticed_at = time.monotonic()
        return True

    def close(self) -> None:
        """Stop the notifications."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


def _watch(path: Path) -> int | None:
    """Return a descriptor that is readable after a write; None: not supported."""
    if sys.platform != "linux" or shared_file_system(path) is not None:
        return None
    try:
        library = ctypes.CDLL(None, use_errno=True)
        descriptor = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, AttributeError):
        return None
    if descriptor < 0:  # the account's limit is reached
        return None
    files = [path, path.with_name(f"{path.name}-wal")]
    added = [library.inotify_add_watch(descriptor, os.fsencode(file), _IN_MODIFY) for file in files if file.exists()]
    if not added or min(added) < 0:
        os.close(descriptor)
        return None
    return int(descriptor)
