"""The event log: append-only, and every tampering is found at the row where it was done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from cxr.domain import ScoredImage
from cxr.errors import StorageError
from db import deliveries, images, jobs
from db.engine import Database
from db.events import EventKind, append_event, is_own_key, load_or_create_key, read_head, verify_chain
from db.schema.records import ChainReport, Receipt, ReportRecord
from db.schema.views import TRIGGERS
from db.sqlite.driver import sqlite3
from db.upkeep.exported_heads import export_head, read_heads
from db.upkeep.replay import Difference, differing_rows


@pytest.fixture
def ten_events(audit_database: Database, noon: datetime) -> Database:
    for number in range(9):
        with audit_database.begin() as session:
            facts = {"attempt": number, "code": "ok", "score_covid19": number / 7, "flag": True, "nothing": None}
            append_event(session, EventKind.JOB_CLAIMED, now=noon + timedelta(microseconds=number), facts=facts)
    return audit_database


def _tamper(database: Database, *statements: str) -> None:
    """Do what the file's owner can do: drop the triggers, change the rows, put the triggers back."""
    with closing(sqlite3.connect(database.path)) as connection, connection:
        for name in TRIGGERS:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            assert connection.execute(statement).rowcount > 0
        for name, body in TRIGGERS.items():
            connection.execute(f"CREATE TRIGGER {name}{body}")


def _verify(database: Database, heads: Path | None = None) -> ChainReport:
    with database.read() as session:
        return verify_chain(session, read_heads(heads) if heads else ())


def test_an_untouched_log_is_sound(ten_events: Database) -> None:
    report = _verify(ten_events)
    assert (report.ok, report.events, report.first_broken_id) == (True, 10, None)
    assert report.head is not None
    with ten_events.read() as session:
        assert read_head(session) == report.head
        assert is_own_key(session)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET kind = 'resent' WHERE id = 5",
        "DELETE FROM event WHERE id = 5",
        "INSERT OR REPLACE INTO event SELECT 5, at, 'x', null, null, null, null, facts, hash FROM event WHERE id = 5",
        "INSERT INTO event SELECT 12, at, kind, null, null, null, null, facts, hash FROM event WHERE id = 5",
        "INSERT INTO event SELECT 5, at, kind, null, null, null, null, facts, hash FROM event WHERE id = 5",
    ],
)
def test_the_database_refuses_any_change(ten_events: Database, statement: str) -> None:
    with (
        closing(sqlite3.connect(ten_events.path)) as connection,
        pytest.raises(sqlite3.IntegrityError, match="events are n"),
    ):
        connection.execute(statement)
    assert _verify(ten_events).ok


@pytest.mark.parametrize(
    ("statements", "first_broken_id"),
    [
        (["UPDATE event SET kind = 'resent' WHERE id = 5"], 5),
        (["UPDATE event SET at = '2026-03-01 12:00:01.000000' WHERE id = 5"], 5),
        (["UPDATE event SET at = 'yesterday' WHERE id = 5"], 5),
        (["UPDATE event SET image_id = 7 WHERE id = 5"], 5),
        (["UPDATE event SET job_id = 7 WHERE id = 5"], 5),
        (["UPDATE event SET report_id = 7 WHERE id = 5"], 5),
        (["UPDATE event SET delivery_id = 7 WHERE id = 5"], 5),
        (["""UPDATE event SET facts = replace(facts, '"attempt":3', '"attempt":4') WHERE id = 5"""], 5),
        (["UPDATE event SET facts = 'no json' WHERE id = 5"], 5),
        (["UPDATE event SET facts = x'00ff' WHERE id = 5"], 5),
        (["UPDATE event SET hash = x'00ff' WHERE id = 5"], 5),
        (["UPDATE event SET hash = (SELECT hash FROM event WHERE id = 4) WHERE id = 5"], 5),
        (["DELETE FROM event WHERE id = 5"], 5),
        (["DELETE FROM event WHERE id = 5", "UPDATE event SET id = id - 1 WHERE id > 5"], 5),
        (["DELETE FROM event WHERE id = 1"], 1),
        (["DELETE FROM event WHERE id < 10"], 1),
        (["UPDATE event SET id = 0 WHERE id = 5", "UPDATE event SET id = 5 WHERE id = 6",
          "UPDATE event SET id = 6 WHERE id = 0"], 5),
        (["INSERT INTO event SELECT 11, at, kind, image_id, job_id, report_id, delivery_id, facts, hash "
          "FROM event WHERE id = 10"], 11),
    ],
)  # fmt: skip
def test_tampering_is_found_where_it_was_done(
    ten_events: Database, statements: list[str], first_broken_id: int
) -> None:
    _tamper(ten_events, *statements)
    report = _verify(ten_events)
    assert (report.ok, report.first_broken_id, report.events) == (False, first_broken_id, first_broken_id - 1)


def test_an_event_of_another_history_is_found(ten_events: Database, tmp_path: Path, noon: datetime) -> None:
    """A restored copy went on under the same key: each of its events is authentic, but not in this log."""
    ten_events.dispose()  # and its write-ahead log is written back
    shutil.copy(ten_events.path, tmp_path / "copy.sqlite")
    other = Database(tmp_path / "copy.sqlite", load_or_create_key(tmp_path / "keys" / "audit.key"))
    for database, kinds in ((ten_events, ("resent", "backup_made")), (other, ("backup_made", "resent"))):
        for kind in kinds:
            with database.begin() as session:
                append_event(session, EventKind(kind), now=noon)
        assert _verify(database).ok
    other.dispose()  # and its write-ahead log is written back
    with closing(sqlite3.connect(tmp_path / "copy.sqlite")) as connection:
        at, kind, facts, chained = connection.execute(
            "SELECT at, kind, facts, hash FROM event WHERE id = 12"
        ).fetchone()
    _tamper(ten_events, f"UPDATE event SET at='{at}', kind='{kind}', facts='{facts}', hash='{chained}' WHERE id = 12")
    assert _verify(ten_events).first_broken_id == 12


def test_a_cut_tail_is_found_by_the_exported_head(ten_events: Database, tmp_path: Path, noon: datetime) -> None:
    heads = tmp_path / "elsewhere" / "audit.heads"
    exported = export_head(ten_events, heads, now=noon)
    assert exported is not None
    assert (exported.id, exported.at) == (10, noon)
    _tamper(ten_events, "DELETE FROM event WHERE id > 7")
    assert _verify(ten_events).ok  # the chain alone can't tell
    report = _verify(ten_events, heads)
    assert (report.ok, report.first_broken_id) == (False, 8)


def test_a_log_rewritten_with_the_key_is_found_by_the_exported_head(
    ten_events: Database, tmp_path: Path, noon: datetime
) -> None:
    heads = tmp_path / "audit.heads"
    export_head(ten_events, heads, now=noon)
    _tamper(ten_events, "DELETE FROM event WHERE id > 9")
    with ten_events.begin() as session:
        append_event(session, EventKind.SERVICE_STARTED, now=noon)
    assert _verify(ten_events).ok
    assert _verify(ten_events, heads).first_broken_id == 10


def test_heads_are_kept_once_each(ten_events: Database, tmp_path: Path, noon: datetime) -> None:
    heads = tmp_path / "audit.heads"
    assert read_heads(heads) == ()
    first = export_head(ten_events, heads, now=noon)
    assert export_head(ten_events, heads, now=noon + timedelta(days=1)) is None
    with ten_events.begin() as session:
        append_event(session, EventKind.SERVICE_STARTED, now=noon)
    second = export_head(ten_events, heads, now=noon + timedelta(days=2))
    assert read_heads(heads) == (first, second)
    assert heads.stat().st_mode & 0o777 == 0o600
    assert _verify(ten_events, heads).ok
    heads.write_text(heads.read_text() + "{")
    with pytest.raises(StorageError, match="damaged"):
        read_heads(heads)


def test_without_the_key_nothing_verifies(ten_events: Database) -> None:
    stranger = Database(ten_events.path, b"another key of the right length!")
    with stranger.read() as session:
        assert verify_chain(session).first_broken_id == 1
        assert not is_own_key(session)
    stranger.dispose()


@pytest.mark.parametrize("fact", ["1.2.840.10008.1", "Doe^Jane", "JANE", "a b", "12345678", "", "/var/lib"])
def test_a_fact_that_could_name_somebody_is_refused(audit_database: Database, noon: datetime, fact: str) -> None:
    for facts in ({"code": fact}, {fact: 1}):
        with audit_database.begin() as session, pytest.raises(StorageError, match="identify no patient") as caught:
            append_event(session, EventKind.RESENT, now=noon, facts=facts)
        assert not fact or fact not in str(caught.value)


@pytest.fixture
def reported(
    audit_database: Database,
    make_receipt: Callable[..., Receipt],
    make_scored: Callable[..., ScoredImage],
    make_report: Callable[..., ReportRecord],
    noon: datetime,
) -> Database:
    """Two images; the first is scored and its report delivered."""
    with audit_database.begin() as session:
        for seed in (1, 2):
            images.receive(session, make_receipt(seed), now=noon)
        (job,) = jobs.claim(session, worker_id="w", limit=1, now=noon, lease_s=60)
        scored = make_scored(covid19=1 / 3, normal=0.1)
        jobs.finish(session, job.id, worker_id="w", scored=scored, reports=[make_report(1)], destinations=["pacs"],
                    now=noon)  # fmt: skip
        (delivery,) = deliveries.claim(session, destination="pacs", sender_id="s", limit=1, now=noon, lease_s=60)
        deliveries.mark_sent(session, delivery.id, status=0, sop_class_uid="1.2", sop_instance_uid="2.25.1",
                        verify_at=None, now=noon)  # fmt: skip
    return audit_database


def test_untouched_rows_are_what_the_events_say(reported: Database) -> None:
    with reported.read() as session:
        assert differing_rows(session) == []


@pytest.mark.parametrize(
    ("statement", "difference"),
    [
        ("UPDATE job SET state = 'failed' WHERE id = 2", Difference(table="job", id=2)),
        ("UPDATE delivery SET state = 'verified'", Difference(table="delivery", id=1)),
        ("UPDATE decision SET view = 'unknown' WHERE image_id = 2", Difference(table="decision", id=2)),
        ("UPDATE decision SET is_chest = NULL WHERE image_id = 2", Difference(table="decision", id=2)),
        ("UPDATE score SET score = 0.3333 WHERE finding = 'covid19'", Difference(table="score", id=1)),
        ("DELETE FROM score WHERE finding = 'normal'", Difference(table="score", id=1)),
        ("INSERT INTO score VALUES (9, 2, 'covid19', 0.5, NULL)", Difference(table="score", id=2)),
        ("UPDATE image SET patient_id = 'SOMEBODY' WHERE id = 1", Difference(table="image", id=1)),
        ("UPDATE image SET sop_instance_uid = '1.2.3.2' WHERE id = 1", Difference(table="image", id=1)),
        ("UPDATE image SET dataset_digest = 'x' WHERE id = 1", Difference(table="image", id=1)),
        ("UPDATE image SET patient_id = 'SOMEBODY', seal_salt = NULL WHERE id = 1", Difference(table="image", id=1)),
        ("UPDATE image SET seal_salt = '00' WHERE id = 1", Difference(table="image", id=1)),
    ],
)
def test_a_changed_row_is_found(reported: Database, statement: str, difference: Difference) -> None:
    with closing(sqlite3.connect(reported.path)) as connection, connection:
        assert connection.execute(statement).rowcount > 0
    with reported.read() as session:
        assert verify_chain(session).ok  # the events are as they were
        assert differing_rows(session) == [difference]


def test_a_forgotten_patient_is_no_tampering(reported: Database, noon: datetime) -> None:
    with reported.begin() as session:
        session.execute(text("UPDATE image SET seal_salt = NULL, patient_id = NULL WHERE id = 1"))
        append_event(session, EventKind.PATIENT_FORGOTTEN, now=noon, image_id=1)
    with reported.read() as session:
        assert differing_rows(session) == []
