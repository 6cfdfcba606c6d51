"""Client of a folder destination: a network share, or the import folder of another program."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom.uid import RE_VALID_UID

from cxr.errors import AccessRefused, PeerBusy, PeerUnreachable, ReportUnreadable
from db.disk import whole_file
from inference.delivery.destination_client import OutgoingReport, Presence, Stored, Verification

_LONGEST_UID = 64
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class FolderClient:
    """Writes reports into one folder; a file appears there complete or not at all.

    Parameters
    ----------
    folder
        Existing directory. One below a mount point is missing while nothing is mounted, so that no report
        is written into the empty mount point.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def store(self, report: OutgoingReport) -> Stored:
        """Write one report durably: temporary file, fsync, rename, fsync of the folder.

        Raises
        ------
        DeliveryError
            If the report is not in the folder.
        """
        content = _read(report.path)
        target = self._target(report)
        with _os_errors_as_delivery_errors():
            if not _has_content(target, content):
                _write(target, content)
        return Stored(status=None, sop_class_uid=report.sop_class_uid, sop_instance_uid=report.sop_instance_uid)

    def verify(self, reports: Sequence[OutgoingReport]) -> Mapping[int, Verification]:
        """Compare the files in the folder with ours, byte for byte.

        Raises
        ------
        DeliveryError
            If the folder can't be reached.
        """
        with _os_errors_as_delivery_errors():
            # A missing folder is a fault; a missing file means absent.
            self._folder.stat()
            return {
                report.report_id: Verification(
                    presence=Presence.PRESENT
                    if _has_content(self._target(report), _read(report.path))
                    else Presence.ABSENT,
                    verified_by="content",
                )
                for report in reports
            }

    def release_idle(self) -> None:
        """Do nothing: nothing is kept open."""

    def close(self) -> None:
        """Do nothing: nothing is kept open."""

    def _target(self, report: OutgoingReport) -> Path:
        """Choose the file name: the SOP Instance UID if it is valid (never a path), else our report number."""
        uid = report.sop_instance_uid
        is_uid = len(uid) <= _LONGEST_UID and re.fullmatch(RE_VALID_UID, uid) is not None
        return self._folder / (f"{uid}.dcm" if is_uid else f"report-{report.report_id}.dcm")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReportUnreadable(
            "The report's file is missing from the spool: restore it from a backup and requeue the delivery."
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
def _os_errors_as_delivery_errors() -> Iterator[None]:
    """Convert OSError to our errors, without its path."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise PeerBusy("The destination's folder is full.") from None
        if error.errno in _DENIED:
            raise AccessRefused("The destination's folder can't be written: check its owner and mode.") from None
        raise PeerUnreachable(
            "The destination's folder can't be reached: check that it exists and is mounted."
        ) from None
