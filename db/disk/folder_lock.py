"""Lock of the listener on its data folder: a second listener would sweep objects that the first is receiving.

The kernel releases the lock when the process ends. Workers take no lock: several may use one folder. The lock
file contains the process id and address of the listener.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from config.logs import get_logger
from cxr.errors import SettingsError

LOCK_NAME = "listener.lock"

_LONGEST = 4096  # bytes of the lock file

log = get_logger(__name__)


@contextmanager
def lock_for_listener(data_dir: Path, **address: str | int | None) -> Iterator[None]:
    """Hold the data folder's lock as the only listener of the installation.

    Parameters
    ----------
    data_dir
        Created if missing.
    address
        Address of the listener, read by `running_listener`.

    Raises
    ------
    SettingsError
        If another listener holds the lock.
    OSError
        If the folder can't be written.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)  # closed in children
    try:
        _lock(descriptor, data_dir)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), **address}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def running_listener(data_dir: Path) -> Mapping[str, str | int | None] | None:
    """Return process id and address of the listener that holds a data folder's lock.

    Returns
    -------
    Mapping or None
        ``pid`` and the address passed to `lock_for_listener`; None: no listener holds the lock.
    """
    try:
        descriptor = os.open(data_dir / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        return _read(descriptor)
    finally:
        os.close(descriptor)
    return None


def _read(descriptor: int) -> Mapping[str, str | int | None]:
    with suppress(ValueError):
        content = json.loads(os.pread(descriptor, _LONGEST, 0))
        if isinstance(content, dict):
            return content
    return {}


def _lock(descriptor: int, data_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _read(descriptor).get("pid", "unknown")
        raise SettingsError(
            f"Another listener (process {holder}) uses the data folder {data_dir}: stop that one, or set data_dir to a "
            "folder of this service's own."
        ) from error
    except OSError as error:  # a file system without locks, as some network mounts are
        log.warning("data_folder_not_locked", code=error.errno)
