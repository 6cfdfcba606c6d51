"""The spool: received objects and reports on disk, under names that no peer has a say in.

::

    spool/
      spool.id         guard: a spool without it is not written (an unmounted disk, say)
      incoming/        what is being received; a leftover is removed by the sweep
      objects/<aa>/    received objects, as received
      reports/<aa>/    results
      quarantine/      files that no row knows

A name is random: never a UID, which a peer chooses and which tells of a patient. A file under
``objects`` or ``reports`` is complete and on the platter: it is written aside, fsynced, renamed, and
its folder fsynced.
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
from db.disk.durable import make_folder, sync_folder, translate_disk_errors, write_file
from db.disk.incoming_file import IncomingFile
from db.disk.mount_guard import check_guard

OBJECTS = "objects"
REPORTS = "reports"
_SHARDS = tuple(f"{number:02x}" for number in range(256))
_NAME = re.compile(r"(?:objects|reports)/([0-9a-f]{2})/\1[0-9a-f]{30}(?:\.[a-z0-9]{1,8}){1,2}")
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """What a sweep found."""

    quarantined: int  # files that no row knew, moved
    leftovers: int  # of cut transfers, removed


class Spool:
    """Received objects and reports on disk.

    Parameters
    ----------
    root
        Its folder.
    min_free_mib
        With less free space than this, in MiB, the spool counts as full.
    """

    def __init__(self, root: Path, *, min_free_mib: int) -> None:
        self._root = root
        self._min_free_mib = min_free_mib

    @property
    def incoming_dir(self) -> Path:
        """Where objects are written while they arrive; on the same file system as the rest."""
        return self._root / "incoming"

    @property
    def quarantine_dir(self) -> Path:
        """Where the sweep puts files that no row knows."""
        return self._root / "quarantine"

    def prepare(self) -> None:
        """Make the folders of a new spool, or check that this is the spool that was here before.

        Listener and worker may call it at the same time.

        Raises
        ------
        StorageError
            If the spool's guard file is absent or another one than the copy beside the spool says:
            the disk that holds the spool is not mounted, or another one is.
        SpoolFull
            If the disk refuses.
        """
        with translate_disk_errors():
            make_folder(self._root)
            check_guard(self._root)
            for folder in (self.incoming_dir, self.quarantine_dir):
                make_folder(folder)
            # All of them now, so that keeping an object never makes a folder: one fsync less, and an
            # unmounted spool is found missing.
            for kind in (OBJECTS, REPORTS):
                for shard in _SHARDS:
                    make_folder(self._root / kind / shard)
                sync_folder(self._root / kind)
            sync_folder(self._root)

    def open_incoming(self) -> IncomingFile:
        """Start to receive one object.

        Raises
        ------
        SpoolFull
            If the disk refuses, or is not mounted.
        """
        return IncomingFile(self.incoming_dir / secrets.token_hex(16))

    def keep(self, incoming: IncomingFile) -> str:
        """Make a received object durable under a name of its own.

        Returns
        -------
        str
            Its spool name. File and folder entry are on the platter.

        Raises
        ------
        SpoolFull
            If the disk refuses; nothing of the object is left then.
        """
        return self._keep_as(incoming, OBJECTS, ".dcm")

    def write(self, data: bytes, *, suffix: str) -> str:
        """Write a result durably.

        Parameters
        ----------
        data
            The whole file.
        suffix
            End of its name, for example ``.dcm``: one or two parts of lower-case letters and digits.

        Returns
        -------
        str
            Its spool name.

        Raises
        ------
        SpoolFull
            If the disk refuses; nothing is left then.
        """
        with self.open_incoming() as incoming:
            incoming.write(data)
            return self._keep_as(incoming, REPORTS, suffix)

    def path(self, spool_name: str) -> Path:
        """Where a file lies, by its spool name; it need not exist.

        Raises
        ------
        StorageError
            If this is not a name that the spool gives.
        """
        if _NAME.fullmatch(spool_name) is None:
            raise StorageError(
                "Received a name that the spool did not give; accepted are names that keep() or write() returned. "
                "Check the database with `cxr db check`."
            )
        return self._root / spool_name

    def is_lost(self, spool_name: str) -> bool:
        """Whether a file is gone from a spool that is there.

        Where its folder is gone as well (a disk that is not mounted), or the disk does not answer,
        nothing is known about the file, and it does not count as lost.
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
        """Remove a file for good.

        Returns
        -------
        bool
            Whether it was there.

        Raises
        ------
        SpoolFull
            If the disk refuses or is not mounted: then nothing is known about the file.
        """
        path = self.path(spool_name)
        with translate_disk_errors():
            is_there = path.exists()
            path.unlink(missing_ok=True)
            sync_folder(path.parent)  # a folder that is gone is a disk that is not mounted
        return is_there

    def free_mib(self) -> int:
        """Free space for us, in MiB."""
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize // _MIB

    def is_full(self) -> bool:
        """Whether less is free than ``min_free_mib``, or no more files can be made."""
        status = os.statvfs(self._root)
        has_no_inodes = status.f_files > 0 and status.f_favail == 0
        return has_no_inodes or self.free_mib() < self._min_free_mib

    def check_writable(self) -> None:
        """Try whether the disk takes what it is given; nothing stays of that.

        Raises
        ------
        SpoolFull
            If it does not, or has too little space; the message says which.
        OSError
            If it is not for us to write here.
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
        """Spool names of all files that lie here, in no order."""
        for kind in (OBJECTS, REPORTS):
            for shard in _SHARDS:
                folder = self._root / kind / shard
                if folder.is_dir():
                    yield from (f"{kind}/{shard}/{entry.name}" for entry in os.scandir(folder))

    def sweep(self, is_known: Callable[[str], bool], *, older_than: datetime) -> SweepResult:
        """Quarantine files that no row knows, and remove what cut transfers left.

        Parameters
        ----------
        is_known
            Whether a row has this spool name; asked right before the file is moved.
        older_than
            Aware. Files written later stay: their row may not be committed yet. Never later than the
            start of the listener and the worker.

        Returns
        -------
        SweepResult
            How many files were moved and removed.
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
        """List the files in the quarantine; none where the folder was never made.

        Parameters
        ----------
        before
            Aware: only files that entered the quarantine earlier; None: all. The age of a file counts from
            when it was moved or copied here, never from when it was written: a restored file may be months
            old on the day it is quarantined.
        """
        if not self.quarantine_dir.is_dir():
            return []
        limit = math.inf if before is None else before.timestamp()
        return sorted(path for path in self.quarantine_dir.iterdir() if _entered(path) < limit)

    def _quarantine(self, path: Path) -> None:
        # Before the move: a kill in between leaves a file that the next sweep but one finds.
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
                with suppress(OSError):  # a disk that has become read-only: the sweep finds it
                    leftover.unlink(missing_ok=True)
            raise
        return name


def _entered(path: Path) -> float:
    """Return when a file came into its folder, in seconds since the epoch; one that is gone: infinity.

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
