"""Temporary folders for whole models, which a killed process must not leave behind for good."""

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
_MARK: Final = ".in-use"
_YOUNG_S: Final = 60.0  # one that is being made may not be marked yet


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a temporary folder, and remove those that killed processes of this account left.

    A process in its life holds a lock on a file in its folder; the lock ends with it, however it ends.

    Yields
    ------
    Path
        The folder; it is gone afterwards.
    """
    remove_abandoned(Path(tempfile.gettempdir()), now=time.time())
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, (Path(folder) / _MARK).open("wb") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        yield Path(folder)


def remove_abandoned(folder: Path, *, now: float) -> int:
    """Remove the scratch folders in a folder that no living process uses.

    Parameters
    ----------
    folder
        Such as ``/tmp``.
    now
        The time, in seconds since the epoch.

    Returns
    -------
    int
        How many were removed.
    """
    removed = 0
    for each in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another account's, or gone meanwhile
            status = each.lstat()
            if each.is_symlink() or status.st_uid != os.getuid() or now - status.st_mtime < _YOUNG_S:
                continue
            if _is_abandoned(each):
                shutil.rmtree(each)
                removed += 1
    return removed


def _is_abandoned(folder: Path) -> bool:
    try:
        with (folder / _MARK).open("rb") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
