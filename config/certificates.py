"""TLS contexts whose certificates can be renewed while the service runs, for listener and destinations."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from config.logs import get_logger
from cxr.errors import SettingsError

_Stamp = tuple[tuple[int, int, int] | None, ...]

log = get_logger(__name__)


class Certificates:
    """The TLS context of new connections, created anew when one of its files has changed.

    Open associations keep their certificate. Files that can't be used (partly written, or a key of another
    certificate) are logged and ignored until they change again; the last valid context stays in use.

    Parameters
    ----------
    files
        Files of the context.
    make
        Creates the context, or raises ``SettingsError``.
    destination
        Name of the destination; None: the listener.

    Raises
    ------
    SettingsError
        If a file can't be used, now at the start.
    """

    def __init__(
        self, files: Sequence[Path | None], make: Callable[[], ssl.SSLContext], *, destination: str | None = None
    ) -> None:
        self._files = tuple(files)
        self._make = make
        self._destination = destination
        self._current_stamp = self._stamp()
        self._context = make()

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection."""
        stamp = self._stamp()
        if stamp != self._current_stamp:
            self._current_stamp = stamp
            self._renew()
        return self._context

    def _renew(self) -> None:
        try:
            self._context = self._make()
        except SettingsError as error:
            log.warning("tls_certificate_not_renewed", code=error.code, destination=self._destination)
        else:
            log.info("tls_certificate_renewed", destination=self._destination)

    def _stamp(self) -> _Stamp:
        """Return modification time, size and inode of each file; a renewal by rename changes the inode."""
        return tuple(map(_stamp_of, self._files))


def _stamp_of(path: Path | None) -> tuple[int, int, int] | None:
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)
