"""Group commit: write transactions of several threads become one, with one fsync.

A commit waits for the disk, and one connection writes at a time: many associations would wait for one commit after
the other. Here their blocks still run one after the other, but in one transaction, which is committed by the last one
that waited. A block alone is committed at once, and none ends before its commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cxr.errors import DatabaseUnavailable, StorageError
from db.schema.statements import DRIVER

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db.sqlite.driver import sqlite3

_MOST_BLOCKS = 64  # in one transaction, which other writers wait for
_CHECK_S = 1.0


class _Group:
    """One transaction, with the blocks of several threads."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.blocks = 0
        self.ended = threading.Event()
        self.error: BaseException | None = None  # why nothing was kept; of all blocks
        self._kept = 0  # blocks that ended without an error
        self._driver: sqlite3.Connection = session.info[DRIVER]

    @property
    def is_open(self) -> bool:
        """Whether the transaction is open: SQLite itself ends it if the disk is full or fails."""
        return self._driver.in_transaction

    def begin_block(self) -> None:
        self.blocks += 1
        if self.blocks > 1:
            self._driver.execute("SAVEPOINT block")

    def end_block(self) -> None:
        self.session.flush()
        if self.blocks > 1:
            self._driver.execute("RELEASE block")
        self._kept += 1

    def undo_block(self, error: BaseException) -> None:
        """Undo the block that raised `error`; if that takes the whole transaction along, it is the error of all."""
        try:
            if self._kept and self.is_open:
                self.session.expunge_all()
                self._driver.execute("ROLLBACK TO block")
                self._driver.execute("RELEASE block")
                return
        except BaseException:
            self._abandon(error)
            raise
        self._abandon(error)

    def commit(self) -> None:
        """End the transaction; ``error`` says why nothing was kept."""
        try:
            if self.is_open:
                self.session.commit()
            elif self.error is None:
                self.error = StorageError("SQLite has ended the transaction early: nothing of it was kept.")
        except BaseException as error:  # noqa: BLE001 (each of its blocks raises it)
            self._abandon(error)
        finally:
            self.session.close()
            self.ended.set()

    def _abandon(self, error: BaseException) -> None:
        self.error = error
        self.session.rollback()


class GroupCommit:
    """Runs blocks of several threads in common transactions; thread-safe.

    Parameters
    ----------
    begin
        Begins a write transaction; the info of its session has the driver's connection.
    end
        Called after each transaction.
    timeout_s
        How long a block waits for its turn.
    """

    def __init__(self, begin: Callable[[], Session], end: Callable[[], None], timeout_s: float) -> None:
        self._begin = begin
        self._end = end
        self._timeout_s = timeout_s
        self._turn = threading.Lock()  # of the block that runs
        self._group: _Group | None = None  # whose transaction is open; changed by the holder of the turn
        self._waiting = 0  # blocks that wait for their turn
        self._counting = threading.Lock()

    @contextmanager
    def block(self) -> Iterator[Session]:
        """Run one block, then wait until its transaction is committed.

        Nothing is kept of a block that raises; the other blocks of its transaction are kept.

        Yields
        ------
        Session
            Also used by the other blocks of the transaction, before and after this one.

        Raises
        ------
        DatabaseUnavailable
            If its turn does not come in time.
        sqlite3.Error, SQLAlchemyError
            If the transaction fails: nothing is kept of any of its blocks.
        """
        group = self._enter()
        try:
            yield group.session
            group.end_block()
        except BaseException as error:
            self._leave(group, error)
            raise
        self._leave(group, None)
        self._wait_for_commit(group)

    def _enter(self) -> _Group:
        """Wait for the turn, and begin a block in the open transaction or a new one."""
        with self._counting:
            self._waiting += 1
        is_granted = self._turn.acquire(timeout=self._timeout_s)
        with self._counting:
            self._waiting -= 1
        if not is_granted:
            raise DatabaseUnavailable(
                f"The audit database was busy for {self._timeout_s:.0f} s: other threads are writing."
            )
        try:
            if self._group is None:
                self._group = _Group(self._begin())
            self._group.begin_block()
        except BaseException:
            self._end_turn()
            raise
        return self._group

    def _leave(self, group: _Group, error: BaseException | None) -> None:
        try:
            if error is not None:
                group.undo_block(error)
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        """Commit the open transaction unless another block can join it, and pass the turn on."""
        try:
            group = self._group
            if group is not None and not (self._waiting and group.blocks < _MOST_BLOCKS and group.is_open):
                self._commit(group)
        finally:
            self._turn.release()

    def _commit(self, group: _Group) -> None:
        self._group = None
        try:
            group.commit()
        finally:
            self._end()

    def _wait_for_commit(self, group: _Group) -> None:
        while not group.ended.wait(_CHECK_S):
            # The block that was to commit may have given up waiting for its turn.
            if self._turn.acquire(blocking=False):
                try:
                    if self._group is group:
                        self._commit(group)
                finally:
                    self._turn.release()
        if group.error is not None:
            raise group.error
