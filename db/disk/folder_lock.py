"""The lock of the listener on its data folder: a second one would sweep away what the first receives.

Held by the kernel for the process, so that it ends with it, however that ends. Workers don't take it: several
may work on one folder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.logs import get_logger
from cxr.errors import SettingsError

LOCK_NAME = "listener.lock"

log = get_logger(__name__)


@contextmanager
def lock_for_listener(data_dir: Path) -> Iterator[None]:
    """Hold the data folder for the one listener of an installation.

    Parameters
    ----------
    data_dir
        Created where it is missing.

    Raises
    ------
    SettingsError
        If another listener holds it.
    OSError
        If the folder can't be written.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)  # closed in children
    try:
        _lock(descriptor, data_dir)
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, data_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        raise SettingsError(
            f"Another listener (process {holder or 'unknown'}) uses the data folder {data_dir}: stop that one, or set "
            "data_dir to a folder of this service's own."
        ) from error
    except OSError as error:  # a file system without locks, as some network mounts are
        log.warning("data_folder_not_locked", code=error.errno)
