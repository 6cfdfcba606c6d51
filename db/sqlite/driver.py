"""Choice of the SQLite library: pysqlite3's if installed, else Python's.

Python uses the operating system's library, often too old for a write-ahead log without the reset defect
(`db.sqlite.connection`).

TensorFlow exports the functions of a SQLite of its own (3.43 in TensorFlow 2.20) to the whole process, and a
pysqlite3 that is imported later would be bound to them. So `app.cli` imports this module first of all; where TensorFlow
is there already, pysqlite3 is loaded with RTLD_DEEPBIND.
"""

from __future__ import annotations

import os
import sqlite3 as standard
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final


@contextmanager
def _own_symbols_first() -> Iterator[None]:
    """Load extension modules so that their own functions come before TensorFlow's (dlopen(3)).

    Not otherwise: it also takes precedence over libraries of LD_PRELOAD.
    """
    flags = sys.getdlopenflags()
    if "tensorflow" in sys.modules:
        sys.setdlopenflags(flags | getattr(os, "RTLD_DEEPBIND", 0))  # macOS binds to a library by name anyway
    try:
        yield
    finally:
        sys.setdlopenflags(flags)


if TYPE_CHECKING:
    import sqlite3
else:
    try:
        with _own_symbols_first():
            from pysqlite3 import dbapi2 as sqlite3
    except ImportError:
        sqlite3 = standard

__all__ = ["DRIVER", "sqlite3"]

DRIVER: Final = f"{'sqlite3' if sqlite3 is standard else 'pysqlite3'} with SQLite {sqlite3.sqlite_version}"
"""Name and version, for messages."""
