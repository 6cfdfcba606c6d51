"""Comparison of rows with the digests sealed in events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

from db.events import SUBJECTS, Row, rows_of, stored_digest
from db.sqlite.driver import sqlite3
from db.upkeep.replay import MOST_DIFFERENCES, Difference


def unsealed_rows(copy: Path, key: bytes, *, first: int, most: int = MOST_DIFFERENCES) -> list[Difference]:
    """Compare rows with the digests in events.

    Parameters
    ----------
    copy
        A database file without writers; a scratch file is created beside it.
    key
        Key of the event chain.
    first
        Id of the first event. 1: all events; then a row without a digest is a difference too.
    most
        Largest number of rows to return.

    Returns
    -------
    list[Difference]
        Rows that were changed or deleted, and with ``first = 1`` added, without an event.
    """
    scratch = copy.with_name(f"{copy.name}.expected")
    scratch.unlink(missing_ok=True)
    try:
        with closing(_opened(copy)) as stored, closing(sqlite3.connect(scratch, isolation_level=None)) as expected:
            _collect(stored, expected, first)
            differences = _changed(stored, expected, key)
            if first == 1:
                differences = chain(differences, _without_digest(stored, expected))
            rows = set(islice(differences, most))
    finally:
        scratch.unlink(missing_ok=True)
    return sorted(rows, key=lambda each: (each.table, each.id))


def _opened(copy: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)
    connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    return connection


def _collect(stored: sqlite3.Connection, expected: sqlite3.Connection, first: int) -> None:
    """Write the latest digest of each row into a file: there are several per image."""
    expected.execute("PRAGMA journal_mode = OFF")
    expected.execute("PRAGMA synchronous = OFF")
    expected.execute(
        "CREATE TABLE seal (subject TEXT, id INTEGER, digest TEXT, PRIMARY KEY (subject, id)) WITHOUT ROWID"
    )
    expected.execute("BEGIN")
    for (facts,) in stored.execute("SELECT facts FROM event WHERE id >= ? ORDER BY id", (first,)):
        rows = [(subject, number, digest) for (subject, number), digest in rows_of(json.loads(facts))]
        expected.executemany("INSERT OR REPLACE INTO seal VALUES (?, ?, ?)", rows)
    expected.execute("COMMIT")


def _changed(stored: sqlite3.Connection, expected: sqlite3.Connection, key: bytes) -> Iterator[Difference]:
    for subject, number, digest in expected.execute("SELECT subject, id, digest FROM seal"):
        row: Row = (subject, number)
        if subject in SUBJECTS and stored_digest(stored, key, row) != digest:
            yield Difference(table=SUBJECTS[subject][0], id=number)


def _without_digest(stored: sqlite3.Connection, expected: sqlite3.Connection) -> Iterator[Difference]:
    for subject, (table, _) in SUBJECTS.items():
        for (number,) in stored.execute(f"SELECT id FROM {table}"):
            digest = expected.execute("SELECT 1 FROM seal WHERE subject = ? AND id = ?", (subject, number)).fetchone()
            if digest is None:
                yield Difference(table=table, id=number)
