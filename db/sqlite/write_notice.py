"""Be woken by the kernel when a process of this machine writes to the database's files (Linux, inotify).

A notice comes with the write, before the commit that it belongs to: whoever is woken looks again for a while.
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
"""What a commit may take from its first write to its end, in seconds."""
_IN_MODIFY: Final = 0x00000002
_BYTES: Final = 65536


class WriteNotice:
    """Notices of writes to one database; without inotify, or where other machines write, there are none.

    Parameters
    ----------
    path
        The live database; its write-ahead log should be there already.

    References
    ----------
    inotify(7)
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = _watch(path)
        self._noticed_at = time.monotonic()

    @property
    def is_quiet(self) -> bool:
        """Whether notices come, and none came for so long that every commit is over."""
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
        """End the notices."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


def _watch(path: Path) -> int | None:
    """Return a descriptor that is readable after a write; None: the system has no such thing."""
    if sys.platform != "linux" or shared_file_system(path) is not None:
        return None
    try:
        library = ctypes.CDLL(None, use_errno=True)
        descriptor = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, AttributeError):
        return None
    if descriptor < 0:  # no more of them for this account
        return None
    files = [path, path.with_name(f"{path.name}-wal")]
    added = [library.inotify_add_watch(descriptor, os.fsencode(file), _IN_MODIFY) for file in files if file.exists()]
    if not added or min(added) < 0:
        os.close(descriptor)
        return None
    return int(descriptor)
