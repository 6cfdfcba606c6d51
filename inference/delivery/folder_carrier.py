"""A destination that is a folder: on another machine, or where another program picks files up."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom.uid import RE_VALID_UID

from cxr.errors import AccessRefused, PeerBusy, PeerUnreachable, ReportUnreadable
from db.disk import whole_file
from inference.delivery.carrier import Parcel, Presence, Stored, Verification

_LONGEST_UID = 64
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class FolderCarrier:
    """Writes reports into one folder; a file appears there whole or not at all.

    Parameters
    ----------
    folder
        A directory that exists. One below a mount point is missing while nothing is mounted, so that
        nothing is written into the empty mount point.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def store(self, parcel: Parcel) -> Stored:
        """Write one report under a name of its own: write aside, fsync, rename, fsync the folder.

        Raises
        ------
        DeliveryError
            If it is not there now.
        """
        content = _read(parcel.path)
        target = self._target(parcel)
        with _faults():
            if not _has_content(target, content):
                _write(target, content)
        return Stored(status=None, sop_class_uid=parcel.sop_class_uid, sop_instance_uid=parcel.sop_instance_uid)

    def verify(self, parcels: Sequence[Parcel]) -> Mapping[int, Verification]:
        """Compare what lies in the folder, byte for byte.

        Raises
        ------
        DeliveryError
            If the folder is not there.
        """
        with _faults():
            # A missing folder is no answer, a missing file is one.
            self._folder.stat()
            return {
                parcel.report_id: Verification(
                    presence=Presence.PRESENT
                    if _has_content(self._target(parcel), _read(parcel.path))
                    else Presence.ABSENT,
                    verified_by="content",
                )
                for parcel in parcels
            }

    def release_idle(self) -> None:
        """Do nothing: nothing is kept open."""

    def close(self) -> None:
        """Do nothing: nothing is kept open."""

    def _target(self, parcel: Parcel) -> Path:
        """Choose the file's name: the SOP Instance UID if it is one, never a path; else our own number."""
        uid = parcel.sop_instance_uid
        is_uid = len(uid) <= _LONGEST_UID and re.fullmatch(RE_VALID_UID, uid) is not None
        return self._folder / (f"{uid}.dcm" if is_uid else f"report-{parcel.report_id}.dcm")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReportUnreadable(
            "The report's file is gone from the spool: restore it from a backup and requeue the delivery."
        ) from error


def _has_content(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except FileNotFoundError:
        return False


def _write(target: Path, content: bytes) -> None:
    # The umask determines the permissions: the folder is shared with other programs.
    with whole_file(target, draft_suffix="part", mode=0o666) as draft:
        draft.write_bytes(content)


@contextmanager
def _faults() -> Iterator[None]:
    """Turn what the file system says into our errors, without its path."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise PeerBusy("The destination's folder is full.") from None
        if error.errno in _DENIED:
            raise AccessRefused("The destination's folder can't be written: check its owner and mode.") from None
        raise PeerUnreachable("The destination's folder is not there: check that it is mounted.") from None
