"""Process that copies a database with a rollback journal: `python -m db.sqlite.page_copy SOURCE DRAFT SLICE_BYTES`.

SQLite's own backup starts again at each commit of another process, so that a busy database could be copied in one
step only, while every commit waits. This copy is made in passes. The first copies the file in slices, the second
copies what has changed since; each slice under a read lock of its own, and a pass during which nothing was committed
ends the copy. Else a last pass keeps one read lock: it compares the two files in the page cache, and writes
only the blocks that the commits during the second pass have changed.

It is a process of its own because it reads the file beside SQLite: closing any descriptor of a database releases the
locks of all connections of the process (https://www.sqlite.org/howtocorrupt.html, section 2.2).

Standard output: a line ``COPIED TOTAL``, in bytes, after each slice of the first pass; on failure, as last line, the
name of SQLite's error, or the number of the system's.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from db.sqlite.driver import sqlite3

SQLITE_REFUSED, SYSTEM_REFUSED, INTERRUPTED = 3, 4, 130
"""Exit codes: SQLite has refused; the operating system has; Ctrl-C."""
_BLOCK_BYTES = 65_536  # SQLite's largest page: blocks consist of whole pages
_BUSY_TIMEOUT_S = 30.0
_PAUSE_S = 0.005  # a writer that waits for the lock gets it


class PageCopy:
    """Copy of one database file.

    Parameters
    ----------
    live
        A connection to the database, which has a rollback journal.
    source, draft
        Descriptors of the database's file and of the file to write.
    slice_bytes
        Bytes that are copied under one read lock.
    """

    def __init__(self, live: sqlite3.Connection, source: int, draft: int, slice_bytes: int) -> None:
        self._live = live
        self._source = source
        self._draft = draft
        self._slice_bytes = slice_bytes

    def copy(self) -> None:
        """Copy the database in one state, and fsync the copy."""
        if not (self._copy_slices(is_first=True) or self._copy_slices(is_first=False)):
            os.fsync(self._draft)  # the last pass doesn't wait for the disk
            with self._read_lock():
                self._copy_changed_blocks()
        os.fsync(self._draft)

    def _copy_slices(self, *, is_first: bool) -> bool:
        """Copy what differs, slice by slice; return whether nothing was committed during the pass."""
        states, start = set(), 0
        while True:
            with self._read_lock() as state:
                states.add(state)
                size = os.fstat(self._source).st_size
                if start >= size and start:
                    os.ftruncate(self._draft, size)
                    return len(states) == 1
                self._copy_changed(start, self._slice_bytes)
            start += self._slice_bytes
            if is_first:
                # At once: a single fsync at the end would delay those of concurrent commits.
                os.fsync(self._draft)
                _tell(f"{min(start, size)} {size}")
            time.sleep(_PAUSE_S)

    def _copy_changed_blocks(self) -> None:
        """Make the draft equal to the source; both are in the page cache from the passes before."""
        size = os.fstat(self._source).st_size
        os.ftruncate(self._draft, size)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # reading releases the interpreter's lock
            list(pool.map(self._copy_changed_blocks_of, range(0, size, self._slice_bytes)))

    def _copy_changed_blocks_of(self, slice_start: int) -> None:
        for start in range(slice_start, slice_start + self._slice_bytes, _BLOCK_BYTES):
            self._copy_changed(start, _BLOCK_BYTES)

    def _copy_changed(self, start: int, count: int) -> None:
        data = os.pread(self._source, count, start)
        if data != os.pread(self._draft, count, start):
            _write(self._draft, data, start)

    @contextmanager
    def _read_lock(self) -> Iterator[int]:
        """Hold a read lock, under which the file has the state of the last commit; yield that state's number."""
        self._live.execute("BEGIN")
        try:
            self._live.execute("SELECT count(*) FROM sqlite_master").fetchone()  # takes the lock
            yield self._live.execute("PRAGMA data_version").fetchone()[0]
        finally:
            self._live.execute("ROLLBACK")


def _write(draft: int, data: bytes, start: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(draft, view, start)
        view, start = view[written:], start + written


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _run(source: Path, draft: Path, slice_bytes: int) -> None:
    with ExitStack() as stack:
        # Closed last: their end would release the connection's locks.
        read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, read)
        written = os.open(draft, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, written)
        # Not mode=ro: such a connection can't roll back the transaction of a killed writer.
        uri = f"{source.absolute().as_uri()}?mode=rw"
        live = stack.enter_context(
            closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None))
        )
        live.execute("PRAGMA query_only = ON")
        PageCopy(live, read, written, slice_bytes).copy()


def main() -> int:
    """Run the copy that the command line names; return the exit code."""
    source, draft, slice_bytes = sys.argv[1:]
    try:
        _run(Path(source), Path(draft), int(slice_bytes))
    except sqlite3.Error as error:
        _tell(getattr(error, "sqlite_errorname", type(error).__name__))
        return SQLITE_REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        _tell(str(error.errno))
        return SYSTEM_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
