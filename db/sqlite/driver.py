"""Choice of the SQLite library: pysqlite3's if installed, else Python's.

Python uses the operating system's library, often too old for a write-ahead log without the reset defect
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
"""Name and version, for messages."""
