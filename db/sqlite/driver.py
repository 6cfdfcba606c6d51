"""The one place that chooses SQLite's library: that of pysqlite3's wheel where it is installed, else Python's own.

Python's is the operating system's, often too old for a write-ahead log without the reset defect
(`db.sqlite.connection`).
"""

from __future__ import annotations

import sqlite3 as standard
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3
else:
    try:
        from pysqlite3 import dbapi2 as sqlite3
    except ImportError:
        sqlite3 = standard

__all__ = ["DRIVER", "sqlite3"]

DRIVER: Final = f"{'sqlite3' if sqlite3 is standard else 'pysqlite3'} with SQLite {sqlite3.sqlite_version}"
"""Name and version, for people."""
