"""Temporary folders for models and their graphs; folders of killed processes are removed later."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

PREFIX: Final = "cxr-model-"
_LOCK_FILE: Final = ".in-use"
_YOUNG_S: Final = 60.0  # a new folder may not have its lock file yet


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Create a temporary folder; remove those that killed processes of this account left.

    The process holds a lock on a file in its folder; the kernel releases the lock when the process ends.

    Yields
    ------
    Path
        The folder; removed on exit.
    """
    remove_abandoned(Path(tempfile.gettempdir()), now=time.time())
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, (Path(folder) / _LOCK_FILE).open("wb") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        lock_file.write(_owner())
        lock_file.flush()
        yield Path(folder)


def remove_own() -> int:
    """Remove the scratch folders of this process, which is about to end without leaving their blocks.

    Returns
    -------
    int
        Number of removed folders.
    """
    removed = 0
    for each in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # of another account; what a thread still writes to is removed at the next start
            if not each.is_symlink() and (each / _LOCK_FILE).read_bytes() == _owner():
                shutil.rmtree(each)
                removed += 1
    return removed


def remove_abandoned(folder: Path, *, now: float) -> int:
    """Remove the scratch folders that no running process uses.

    Parameters
    ----------
    folder
        Parent of the scratch folders, e.g. ``/tmp``.
    now
        Current time, in seconds since the epoch.

    Returns
    -------
    int
        Number of removed folders.
    """
    removed = 0
    for each in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):  # of another account, or already removed
            status = each.lstat()
            if each.is_symlink() or status.st_uid != os.getuid() or now - status.st_mtime < _YOUNG_S:
                continue
            if _is_abandoned(each):
                shutil.rmtree(each)
                removed += 1
    return removed


def _owner() -> bytes:
    return f"{os.getpid()}".encode()


def _is_abandoned(folder: Path) -> bool:
    try:
        with (folder / _LOCK_FILE).open("rb") as lock_file:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
