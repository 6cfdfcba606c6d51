"""The spool: received objects and reports on disk, under random names.

::

    spool/
      spool.id         guard file: without it the disk is not mounted, and nothing is written
      incoming/        objects being received; leftovers are removed by the sweep
      objects/<aa>/    received objects, unchanged
      reports/<aa>/    results
      quarantine/      files without a row in the database

A name is never a UID: the peer chooses UIDs, and they identify a patient. A file under ``objects`` or
``reports`` is complete and durable: it is written under ``incoming``, fsynced, renamed, and its folder is
fsynced.
"""

from __future__ import annotations

import math
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cxr.errors import SpoolFull, StorageError
from cxr.folder_sync import sync_folder
from db.disk.durable import make_folder, translate_disk_errors, write_file
from db.disk.incoming_file import IncomingFile
from db.disk.mount_guard import check_guard

OBJECTS = "objects"
REPORTS = "reports"
_SHARDS = tuple(f"{number:02x}" for number in range(256))
_NAME = re.compile(r"(?:objects|reports)/([0-9a-f]{2})/\1[0-9a-f]{30}(?:\.[a-z0-9]{1,8}){1,2}")
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """Result of a sweep."""

    quarantined: int  # files without a row, moved
    leftovers: int  # files of aborted transfers, removed


class Spool:
    """Received objects and reports on disk.

    Parameters
    ----------
    root
        Folder of the spool.
    min_free_mib
        Free space in MiB below which the spool counts as full.
    """

    def __init__(self, root: Path, *, min_free_mib: int) -> None:
        self._root = root
        self._min_free_mib = min_free_mib

    @property
    def incoming_dir(self) -> Path:
        """Folder of objects being received, on the same file system as the rest."""
        return self._root / "incoming"

    @property
    def quarantine_dir(self) -> Path:
        """Folder for files without a row."""
        return self._root / "quarantine"

    def prepare(self) -> None:
        """Create the folders of a new spool, or check the guard file of an existing one.

        Listener and worker may call it at the same time.

        Raises
        ------
        StorageError
            If the guard file is absent or differs from the copy beside the spool: the spool's disk is not
            mounted, or another one is.
        SpoolFull
            If the disk refuses.
        """
        with translate_disk_errors():
            make_folder(self._root)
            check_guard(self._root)
            for folder in (self.incoming_dir, self.quarantine_dir):
                make_folder(folder)
            # All folders are created now: `keep` saves an fsync, and a missing folder shows an unmounted disk.
            for kind in (OBJECTS, REPORTS):
                for shard in _SHARDS:
                    make_folder(self._root / kind / shard)
                sync_folder(self._root / kind)
            sync_folder(self._root)

    def open_incoming(self) -> IncomingFile:
        """Create the file of an object to be received.

        Raises
        ------
        SpoolFull
            If the disk refuses, or is not mounted.
        """
        return IncomingFile(self.incoming_dir / secrets.token_hex(16))

    def keep(self, incoming: IncomingFile) -> str:
        """Make a received object durable under a new random name.

        Returns
        -------
        str
            Its spool name. File and folder entry are durable.

        Raises
        ------
        SpoolFull
            If the disk refuses; the object is removed.
        """
        return self._keep_as(incoming, OBJECTS, ".dcm")

    def write(self, data: bytes, *, suffix: str) -> str:
        """Write a result durably.

        Parameters
        ----------
        data
            Content of the file.
        suffix
            Suffix of its name, for example ``.dcm``: one or two parts of lower-case letters and digits.

        Returns
        -------
        str
            Its spool name.

        Raises
        ------
        SpoolFull
            If the disk refuses; no file is left.
        """
        with self.open_incoming() as incoming:
            incoming.write(data)
            return self._keep_as(incoming, REPORTS, suffix)

    def path(self, spool_name: str) -> Path:
        """Return the path of a spool name; the file need not exist.

        Raises
        ------
        StorageError
            If this is not a spool name.
        """
        if _NAME.fullmatch(spool_name) is None:
            raise StorageError(
                "Received a name that is not a spool name; accepted are names returned by keep() or write(). "
                "Check the database with `cxr db check`."
            )
        return self._root / spool_name

    def is_lost(self, spool_name: str) -> bool:
        """Return whether a file is missing from a mounted spool.

        If its folder is missing as well (the disk is not mounted) or the disk fails, the file does not count
        as lost.
        """
        path = self.path(spool_name)
        try:
            path.stat()
        except FileNotFoundError:
            return path.parent.is_dir()
        except OSError:
            return False
        return False

    def remove(self, spool_name: str) -> bool:
        """Remove a file durably.

        Returns
        -------
        bool
            Whether the file existed.

        Raises
        ------
        SpoolFull
            If the disk refuses or is not mounted; the file may still exist.
        """
        path = self.path(spool_name)
        with translate_disk_errors():
            existed = path.exists()
            path.unlink(missing_ok=True)
            sync_folder(path.parent)  # fails if the disk is not mounted
        return existed

    def free_mib(self) -> int:
        """Return the free space for this account, in MiB."""
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize // _MIB

    def is_full(self) -> bool:
        """Return whether less than ``min_free_mib`` or no inode is free."""
        status = os.statvfs(self._root)
        has_no_inodes = status.f_files > 0 and status.f_favail == 0
        return has_no_inodes or self.free_mib() < self._min_free_mib

    def check_writable(self) -> None:
        """Write and remove a probe file.

        Raises
        ------
        SpoolFull
            If the disk refuses or has too little space; the message names the reason.
        OSError
            If this account may not write here.
        """
        with translate_disk_errors():
            if self.is_full():
                raise SpoolFull(
                    f"The disk of the spool has {self.free_mib()} MiB free, less than listener.min_free_mib = "
                    f"{self._min_free_mib}, or no more files can be made: make room."
                )
            probe = self.incoming_dir / secrets.token_hex(16)
            try:
                write_file(probe, bytes(4096))
            finally:
                probe.unlink(missing_ok=True)

    def names(self) -> Iterator[str]:
        """Return the spool names of all files, in no order."""
        for kind in (OBJECTS, REPORTS):
            for shard in _SHARDS:
                folder = self._root / kind / shard
                if folder.is_dir():
                    yield from (f"{kind}/{shard}/{entry.name}" for entry in os.scandir(folder))

    def sweep(self, is_known: Callable[[str], bool], *, older_than: datetime) -> SweepResult:
        """Move files without a row to the quarantine, and remove leftovers of aborted transfers.

        Parameters
        ----------
        is_known
            Returns whether a row has this spool name; called right before the file is moved.
        older_than
            Aware. Later files stay: their row may not be committed yet. Not after the start of the listener
            and of the worker.

        Returns
        -------
        SweepResult
            Numbers of moved and removed files.
        """
        limit = older_than.timestamp()
        quarantined = leftovers = 0
        for name in list(self.names()):
            path = self._root / name
            if _is_older(path, limit) and not is_known(name):
                self._quarantine(path)
                quarantined += 1
        for leftover in list(self.incoming_dir.iterdir()):
            if _is_older(leftover, limit):
                leftover.unlink(missing_ok=True)
                leftovers += 1
        return SweepResult(quarantined=quarantined, leftovers=leftovers)

    def quarantined(self, *, before: datetime | None = None) -> list[Path]:
        """Return the files in the quarantine; none if its folder does not exist.

        Parameters
        ----------
        before
            Aware: only files that entered the quarantine earlier; None: all. The age of a file counts from its
            move into the quarantine, not from its last write: a restored file may be months old by then.
        """
        if not self.quarantine_dir.is_dir():
            return []
        limit = math.inf if before is None else before.timestamp()
        return sorted(path for path in self.quarantine_dir.iterdir() if _entered(path) < limit)

    def _quarantine(self, path: Path) -> None:
        # Before the move: after a kill in between, a later sweep quarantines the file.
        os.utime(path)
        path.rename(self.quarantine_dir / path.name)

    def _keep_as(self, incoming: IncomingFile, kind: str, suffix: str) -> str:
        token = secrets.token_hex(16)
        name = f"{kind}/{token[:2]}/{token}{suffix}"
        target = self.path(name)
        try:
            incoming.sync_and_close()
            with translate_disk_errors():
                incoming.path.rename(target)
                sync_folder(target.parent)
        except BaseException:
            incoming.discard()
            for leftover in (incoming.path, target):
                with suppress(OSError):  # the disk has become read-only: a later sweep removes it
                    leftover.unlink(missing_ok=True)
            raise
        return name


def _entered(path: Path) -> float:
    """Return when a file entered its folder, in seconds since the epoch; infinity if it is gone.

    A move changes ``ctime`` and keeps ``mtime``; ``cp --archive`` restores ``mtime`` alone.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return math.inf
    return max(status.st_mtime, status.st_ctime)


def _is_older(path: Path, limit: float) -> bool:
    try:
        return path.stat().st_mtime < limit
    except FileNotFoundError:
        return False
