"""Whether anything was committed since one looked: cheap enough to ask ten times a second.

A worker that finds nothing to do would otherwise ask the tables again and again. SQLite counts commits for each
connection, in the memory that processes share with a write-ahead log, else in the file's header.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from db.sqlite.driver import sqlite3

REST_S: Final = 5.0
"""Without any commit one looks again after so long: what was planned for later falls due by itself."""


class ChangeWatch:
    """Tells whether a look into the database can find something new; for one thread.

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
        self._seen: int | None = None
        self._looked_at = float("-inf")

    def is_read_due(self) -> bool:
        """Whether there was a commit since the last call that was answered so, or that is long ago."""
        now = time.monotonic()
        version = self._version()
        if version is not None and version == self._seen and now - self._looked_at < REST_S:
            return False
        self._seen, self._looked_at = version, now
        return True

    def has_new_commit(self) -> bool:
        """Whether there was a commit since `is_read_due` last said yes; this counts as no look."""
        version = self._version()
        return version is None or version != self._seen

    def force_read(self) -> None:
        """Answer the next call with yes: the last look found something, and there may be more."""
        self._seen = None

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._seen = None, None

    def _version(self) -> int | None:
        """Return SQLite's count; None: it can't be told now, for example while another process holds the file."""
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            self.close()
            return None
        return int(version)
