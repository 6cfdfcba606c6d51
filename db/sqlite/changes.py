"""Detection of commits by other connections, cheap enough for ten calls a second.

An idle worker queries the tables only after a commit. SQLite counts commits in the shared memory of the
write-ahead log, or in the file's header.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from db.sqlite.driver import sqlite3

REST_S: Final = 5.0
"""Interval of reads, in seconds, while nothing is committed: a planned job becomes due without a commit."""


class ChangeWatch:
    """Reports whether a read of the database can find anything new; not thread-safe.

    Parameters
    ----------
    path
        The live database.

    References
    ----------
    https://www.sqlite.org/pragma.html#pragma_data_version
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._version_read: int | None = None
        self._read_at = float("-inf")

    def is_read_due(self) -> bool:
        """Return whether there was a commit since the last True, or `REST_S` has passed since."""
        now = time.monotonic()
        version = self._version()
        if version is not None and version == self._version_read and now - self._read_at < REST_S:
            return False
        self._version_read, self._read_at = version, now
        return True

    def has_new_commit(self) -> bool:
        """Return whether there was a commit since `is_read_due` last returned True; changes no state."""
        version = self._version()
        return version is None or version != self._version_read

    def force_read(self) -> None:
        """Let the next `is_read_due` return True: the last read found work, and there may be more."""
        self._version_read = None

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._version_read = None, None

    def _version(self) -> int | None:
        """Return SQLite's data version; None: unknown now, for example while another process locks the file."""
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            self.close()
            return None
        return int(version)
