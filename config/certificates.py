"""TLS certificates that can be renewed while the service runs, on the side that listens and on the one that calls."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from config.logs import get_logger
from cxr.errors import SettingsError

_Stamp = tuple[tuple[int, int, int] | None, ...]

log = get_logger(__name__)


class Certificates:
    """The TLS context of new connections: made anew when one of its files has changed.

    Associations that are open keep the certificate that they began with. Files that can't be used,
    because half of them are written or the key is another certificate's, change nothing: it is
    logged, and they are looked at again when they change again.

    Parameters
    ----------
    files
        What the context is made from.
    make
        Makes it, or raises ``SettingsError``.
    destination
        Name of the destination that they are for; None: the listener's.

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
        self._seen = self._stamp()
        self._context = make()

    def context(self) -> ssl.SSLContext:
        """Give the context for a connection that is made just now."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
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
        """Say what the files look like from outside; a renewal by rename gives another inode."""
        return tuple(map(_stamp_of, self._files))


def _stamp_of(path: Path | None) -> tuple[int, int, int] | None:
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)
