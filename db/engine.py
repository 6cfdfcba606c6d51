"""Opening the audit database: connections, their locking, and transactions.

One connection writes at a time, whatever the journal: a write transaction takes the lock when it
begins (``BEGIN IMMEDIATE``), so it never fails half-way because another came first. Reads have an
engine of their own that takes no write lock and can't write.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.orm import Session

from cxr.errors import StorageError
from db.connection import BUSY_TIMEOUT_S, Journal, journal_mode, make_engine, translated

__all__ = ["AUDIT_KEY", "Database", "Journal", "Session", "journal_mode"]

AUDIT_KEY = "audit_key"  # where a session's info carries the key of the event chain


class Database:
    """The audit database of one installation, opened by one process; threads may share it.

    Parameters
    ----------
    path
        The database file; it exists and has this version's schema (see ``db.opening``).
    audit_key
        Key of the event chain; every session of this database carries it.
    """

    def __init__(self, path: Path, audit_key: bytes) -> None:
        self.path = path
        self._info = {AUDIT_KEY: audit_key}
        self._writing = make_engine(path, begin="BEGIN IMMEDIATE")
        self._reading = make_engine(path, begin="BEGIN", query_only=True)
        # SQLite lets one writer in and makes the others sleep up to 0.1 s between tries; threads of
        # one process wait here instead, and go on at once.
        self._one_writer = threading.Lock()

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """Run one write transaction; it commits at the end of the block, or rolls back if that raises.

        Yields
        ------
        Session
            It holds the write lock from the start: keep the block short.

        Raises
        ------
        SpoolFull
            If the disk is full.
        StorageError
            If SQLite refuses, or another process writes for longer than the busy timeout.
        """
        if not self._one_writer.acquire(timeout=BUSY_TIMEOUT_S):
            raise StorageError(f"The audit database was busy for {BUSY_TIMEOUT_S:.0f} s: another thread is writing.")
        try:
            with translated(), Session(self._writing, info=dict(self._info)) as session, session.begin():
                session.connection()  # takes the lock now, also if the block starts with something else
                yield session
        finally:
            self._one_writer.release()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Run one read transaction: all statements see the same state, and none can write.

        Yields
        ------
        Session
            Keep the block short: without a write-ahead log a long one holds up commits.

        Raises
        ------
        StorageError
            If SQLite refuses.
        """
        with translated(), Session(self._reading, info=dict(self._info)) as session, session.begin():
            yield session

    def dispose(self) -> None:
        """Close all connections that are not in use."""
        self._writing.dispose()
        self._reading.dispose()
