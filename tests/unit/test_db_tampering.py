"""Whatever is changed in the table of events, the check finds it, and names the first row that is not as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.engine import Database
from db.events import AUDIT_KEY, EventKind, append_event, verify_chain
from db.schema.records import ChainReport
from db.schema.views import TRIGGERS
from db.sqlite.driver import sqlite3
from db.upkeep.exported_heads import export_head, read_heads

EVENTS = 12
COLUMNS = ("id", "at", "kind", "image_id", "job_id", "report_id", "delivery_id", "facts", "hash")
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Log:
    """A log of events as it was written, its exported heads, and a file to do harm in."""

    path: Path
    heads: Path
    key: bytes
    original: bytes = field(repr=False)
    rows: Rows = field(repr=False)

    def verify(self, *, with_heads: bool = True) -> ChainReport:
        database = Database(self.path, self.key)
        try:
            with database.read() as session:
                return verify_chain(session, read_heads(self.heads) if with_heads else ())
        finally:
            database.dispose()

    def now_holds(self) -> Rows:
        with self.opened() as connection:
            return _rows(connection)

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """The file as its owner can have it: without triggers."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.text_factory = bytes
            connection.execute("PRAGMA synchronous = OFF")
            for name in TRIGGERS:
                connection.execute(f"DROP TRIGGER IF EXISTS {name}")
            yield connection


def _rows(connection: sqlite3.Connection) -> Rows:
    return connection.execute(f"SELECT {', '.join(COLUMNS)} FROM event ORDER BY id").fetchall()


@pytest.fixture
def log(audit_database: Database, noon: datetime, tmp_path: Path) -> Log:
    kinds = (EventKind.RECEIVED, EventKind.JOB_CLAIMED, EventKind.JOB_REPORTED, EventKind.DELIVERY_SENT)
    for number in range(EVENTS - 1):
        with audit_database.begin() as session:
            append_event(
                session,
                kinds[number % 4],
                now=noon + timedelta(seconds=number),
                image_id=number // 2 + 1,
                job_id=number if number % 2 else None,
                facts={"state": "queued", "attempt": number, "score_covid19": number / 7, "nothing": None},
            )
    heads = tmp_path / "elsewhere" / "audit.heads"
    export_head(audit_database, heads, now=noon)
    with audit_database.read() as session:
        key = session.info[AUDIT_KEY]
    audit_database.dispose()
    path = tmp_path / "tampered.sqlite"
    shutil.copy(audit_database.path, path)
    made = Log(path, heads, key, path.read_bytes(), [])
    made.rows.extend(made.now_holds())
    return made


def first_difference(written: Rows, found: Rows) -> int | None:
    """The number of the first event that is not as it was written, or is missing, or was added; None: none."""
    for number, (before, after) in enumerate(zip(written, found, strict=False), start=1):
        if before != after or [type(value) for value in before] != [type(value) for value in after]:
            return number
    return None if len(written) == len(found) else min(len(written), len(found)) + 1


numbers = st.integers(1, EVENTS)
values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.sampled_from([b"\xff\xfe", "0" * 64, "2026-03-01 12:00:00.000000", '{"attempt":1}']),
)


@st.composite
def tampering(draw: st.DrawFn) -> Callable[[sqlite3.Connection], None]:
    kind = draw(st.sampled_from(["column", "text", "delete", "cut", "swap", "copy", "insert", "renumber", "nibble"]))
    row, other, column = draw(numbers), draw(numbers), draw(st.sampled_from(COLUMNS[1:]))
    value, count = draw(values), draw(st.integers(1, EVENTS))

    def swap(db: sqlite3.Connection) -> None:
        db.execute("UPDATE event SET id = -1 WHERE id = ?", (row,))
        db.execute("UPDATE event SET id = ? WHERE id = ?", (row, other))
        db.execute("UPDATE event SET id = ? WHERE id = -1", (other,))

    def close_the_gap(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM event WHERE id = ?", (row,))
        for number in range(row + 1, EVENTS + 1):
            db.execute("UPDATE OR IGNORE event SET id = ? WHERE id = ?", (number - 1, number))

    # What the statement can't do (NOT NULL, a number that is taken) does no harm either.
    statements: dict[str, Callable[[sqlite3.Connection], None]] = {
        "column": lambda db: db.execute(f"UPDATE OR IGNORE event SET {column} = ? WHERE id = ?", (value, row)),
        "text": lambda db: db.execute(
            f"UPDATE OR IGNORE event SET {column} = CAST(x'C3FF00' AS TEXT) WHERE id = ?", (row,)
        ),
        "delete": lambda db: db.execute("DELETE FROM event WHERE id BETWEEN ? AND ?", (row, row + count - 1)),
        "cut": lambda db: db.execute("DELETE FROM event WHERE id >= ?", (row,)),
        "swap": swap,
        "copy": lambda db: db.execute(
            f"UPDATE OR IGNORE event SET {column} = (SELECT {column} FROM event WHERE id = ?) WHERE id = ?",
            (other, row),
        ),
        "insert": lambda db: db.execute(
            "INSERT OR IGNORE INTO event SELECT ?, at, kind, image_id, job_id, report_id, delivery_id, facts, hash "
            "FROM event WHERE id = ?",
            (draw_number, row),
        ),
        "renumber": close_the_gap,
        "nibble": lambda db: db.execute(
            "UPDATE OR IGNORE event SET hash = substr(hash, 1, ?) || 'x' || substr(hash, ?) WHERE id = ?",
            (count, count + 2, row),
        ),
    }
    draw_number = draw(st.sampled_from([-5, 0, EVENTS + 1, EVENTS + 7]))
    return statements[kind]  # type: ignore[return-value]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(harm=st.lists(tampering(), min_size=1, max_size=3))
def test_any_tampering_is_found_and_the_first_broken_row_is_named(
    log: Log, harm: Sequence[Callable[[sqlite3.Connection], None]]
) -> None:
    log.path.write_bytes(log.original)
    with log.opened() as connection:
        for each in harm:
            each(connection)
    expected = first_difference(log.rows, log.now_holds())
    report = log.verify()
    assert (report.ok, report.first_broken_id) == (expected is None, expected)
    assert report.events == (EVENTS if expected is None else expected - 1)


def test_text_that_is_no_text_is_named_like_any_other(log: Log) -> None:
    with log.opened() as connection:
        connection.execute("UPDATE event SET facts = CAST(x'C3FF00' AS TEXT) WHERE id = 7")
    assert log.verify().first_broken_id == 7


def test_a_log_without_any_event_is_broken_at_the_first(log: Log) -> None:
    """Every database begins with an event: none at all is a cut, heads or no heads."""
    with log.opened() as connection:
        connection.execute("DELETE FROM event")
    assert log.verify(with_heads=False).first_broken_id == 1
    assert log.verify().first_broken_id == 1


def test_a_log_that_went_on_behind_a_cut_is_found(log: Log, noon: datetime) -> None:
    """Who cuts the tail and lets the service go on has a whole chain; the exported head is not in it."""
    with log.opened() as connection:
        connection.execute("DELETE FROM event WHERE id > 9")
    database = Database(log.path, log.key)
    for number in range(8):
        with database.begin() as session:
            append_event(session, EventKind.RESENT, now=noon, image_id=number)
    export_head(database, log.heads, now=noon)
    database.dispose()
    assert log.verify(with_heads=False).ok
    report = log.verify()
    assert (report.ok, report.first_broken_id) == (False, EVENTS)


def test_the_heads_keep_one_line_a_day_and_the_latest(audit_database: Database, tmp_path: Path, noon: datetime) -> None:
    heads = tmp_path / "audit.heads"
    for hours in (0, 1, 2, 30, 31):
        with audit_database.begin() as session:
            append_event(session, EventKind.RESENT, now=noon)
        assert export_head(audit_database, heads, now=noon + timedelta(hours=hours)) is not None
        assert export_head(audit_database, heads, now=noon + timedelta(hours=hours)) is None
    assert [(head.id, head.at - noon) for head in read_heads(heads)] == [
        (4, timedelta(hours=2)),
        (6, timedelta(hours=31)),
    ]
