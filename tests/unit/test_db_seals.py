"""Every column that a view shows is sealed by an event, or listed with the reason why not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cxr.domain import JobState, PackageStatus, RebuildState
from db import deliveries
from db.engine import Database
from db.events import SUBJECTS, EventKind, account, append_event
from db.events.seals import UNSEALED
from db.images import commitments
from db.images.commitments import Reference
from db.jobs import operator_actions, shadow_scores
from db.models import rebuilds, record_activation
from db.privacy.forget import forget
from db.schema.records import Activation
from db.schema.tables import Base
from db.schema.views import TRIGGERS, VIEWS
from db.sqlite.driver import sqlite3
from db.upkeep import integrity, retention
from db.upkeep.row_check import unsealed_rows

KEY = bytes(32)


@dataclass(frozen=True)
class Copy:
    """A database with rows in every table, and a file to do harm in."""

    path: Path
    original: bytes
    key: bytes

    def restored(self) -> Path:
        self.path.write_bytes(self.original)
        return self.path


@pytest.fixture
def busy_site(audit_site: Any, make_scored: Any) -> Any:
    """Something of everything that a view shows."""
    site = audit_site
    database: Database = site.database
    first = site.receive(1)
    site.receive(2, state=JobState.HELD)
    site.receive(3, state=JobState.NOT_SCORED)
    site.score(destinations=["pacs", "archive"])
    site.receive(1)  # a resend
    site.receive(1, content=b"changed")
    with database.begin() as session:
        activation = Activation(
            fingerprint="ab" * 32, name="m", version="1", status=PackageStatus.EVALUATED,
            accepted_gates=("auc",), actor="a", reason="r", at=site.now,
        )  # fmt: skip
        record_activation(session, activation)
        package = shadow_scores.ShadowPackage(
            fingerprint="cd" * 32, name="s", version="1", status=PackageStatus.EVALUATED
        )
        shadow_scores.change(session, package, actor="a", reason="r", now=site.now)
        assert shadow_scores.write_scores(session, first.job_id, make_scored(covid19=0.25), now=site.now)
        rebuilds.begin(session, due_at=site.now, run_name="run", now=site.now)
        references = [Reference(sop_class_uid="1.2", sop_instance_uid="2.25.9")]
        commitments.request(
            session, peer_ae_title="PACS", transaction_uid="1.2.3", references=references,
            due_at=site.now + timedelta(hours=1), now=site.now,
        )  # fmt: skip
    return site


@pytest.fixture
def copy(busy_site: Any, tmp_path: Path) -> Copy:
    with busy_site.database.read() as session:
        key = session.info["audit_key"]
    busy_site.database.dispose()
    path = tmp_path / "tampered" / "audit.sqlite"
    path.parent.mkdir()
    shutil.copy(busy_site.database.path, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        for name in TRIGGERS:
            connection.execute(f"DROP TRIGGER IF EXISTS {name}")
    return Copy(path, path.read_bytes(), key)


def shown(path: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(path)) as connection:
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in VIEWS if name != "events"}


def others(value: object) -> Iterator[object]:
    """Values that somebody might write there instead."""
    if value is None:
        yield from ("x", 1)
    elif isinstance(value, int | float):
        yield from (value + 1, None)
    else:
        yield from (f"{value}x", "2020-01-01 00:00:00.000000", None)


TABLES = [table for table in Base.metadata.sorted_tables if table.name not in ("event", "alembic_version")]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_column_that_a_view_shows_is_sealed_or_listed(copy: Copy, table: Any) -> None:
    before = shown(copy.restored())
    assert unsealed_rows(copy.path, copy.key, first=1) == []
    key = table.primary_key.columns.keys()
    with closing(sqlite3.connect(copy.path)) as connection:
        names = [column.name for column in table.columns]
        rows = [dict(zip(names, row, strict=True)) for row in connection.execute(f"SELECT * FROM {table.name}")]
    seen: set[str] = set()
    for row in rows:
        where = " AND ".join(f"{name} = ?" for name in key)
        for column in (name for name in names if name not in key):
            for value in others(row[column]):
                copy.restored()
                with closing(sqlite3.connect(copy.path, isolation_level=None)) as connection:
                    connection.execute("PRAGMA ignore_check_constraints = ON")
                    changed = connection.execute(
                        f'UPDATE OR IGNORE {table.name} SET "{column}" = ? WHERE {where}',
                        (value, *(row[name] for name in key)),
                    ).rowcount
                if not changed or shown(copy.path) == before:
                    continue
                seen.add(column)
                name = f"{table.name}.{column}"
                if name not in UNSEALED:
                    assert unsealed_rows(copy.path, copy.key, first=1), f"{name} of {row} became {value!r}"
    listed = {name.split(".")[1] for name in UNSEALED if name.split(".")[0] == table.name}
    assert listed <= seen, "what is listed as not sealed is shown"


def test_rows_that_are_added_or_deleted_are_found(copy: Copy) -> None:
    statements = {
        "image": "INSERT INTO image SELECT 99, sop_class_uid, 'x', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 1, "
        "peer_ae_title, transfer_syntax_uid, 1, 'd', NULL, 'i', NULL, NULL, NULL, received_at FROM image LIMIT 1",
        "score": "INSERT INTO score VALUES (99, 1, 'edema', 0.5, 0.5)",
        "delivery": "DELETE FROM delivery WHERE id = 1",
        "package": "INSERT INTO package VALUES (99, 'f', 'n', 'v', 'evaluated', '2026-01-01 00:00:00.000000')",
        "shadow_score": "DELETE FROM shadow_score",
        "job_report": "DELETE FROM job_report WHERE report_id = 1",
    }
    for what, statement in statements.items():
        copy.restored()
        with closing(sqlite3.connect(copy.path, isolation_level=None)) as connection:
            connection.execute(statement)
        assert unsealed_rows(copy.path, copy.key, first=1), what


def test_of_many_changed_rows_the_first_are_enough(copy: Copy) -> None:
    copy.restored()
    with closing(sqlite3.connect(copy.path, isolation_level=None)) as connection:
        connection.execute("UPDATE image SET rows = 1")
        connection.execute("UPDATE job SET reason = 'x'")
    assert len(unsealed_rows(copy.path, copy.key, first=1)) > 2
    assert len(unsealed_rows(copy.path, copy.key, first=1, most=2)) == 2


def test_what_people_and_timers_do_is_sealed_again(busy_site: Any, make_scored: Any) -> None:
    site, database = busy_site, busy_site.database

    def differences() -> tuple[str, ...]:
        return integrity.verify(database, everything=True).changed

    assert differences() == ()
    by = account.account_facts()
    with database.begin() as session:
        operator_actions.release(session, 2, site.now, by=by)
        rebuilds.count_attempt(session, 1)
    site.score(destinations=["pacs"])
    with database.begin() as session:
        deliveries.mark_sent(
            session, 1, status=0, sop_class_uid="1.2", sop_instance_uid="1.3", verify_at=None, now=site.now
        )
        deliveries.mark_verified(session, 1, verified_by="find", now=site.now)
        deliveries.retry(session, 2, code="peer_unreachable", status=None, not_before=site.now, now=site.now)
        rebuilds.end(session, 1, rebuilds.Outcome(state=RebuildState.FAILED, error_code="x"), now=site.now)
        commitments.postpone(session, 1, code="peer_unreachable", due_at=site.now, now=site.now)
        commitments.postpone(session, 1, code=None, due_at=site.now, now=site.now)
    assert differences() == ()
    retention.enforce(
        database, site.spool, site.settings.retention.model_copy(update={"pixels_days": 0.0}), now=site.now
    )
    assert differences() == ()
    with database.begin() as session:
        forget(session, site.spool, 1, now=site.now)
    assert differences() == ()


def test_a_later_event_does_not_cover_up_what_was_changed_before(busy_site: Any) -> None:
    with closing(sqlite3.connect(busy_site.database.path)) as connection, connection:
        connection.execute("UPDATE image SET peer_ae_title = 'OTHER' WHERE id = 1")
        connection.execute("UPDATE delivery SET destination = 'elsewhere' WHERE id = 1")
    with busy_site.database.begin() as session:
        deliveries.retry(session, 1, code="peer_unreachable", status=None, not_before=busy_site.now, now=busy_site.now)
    settings = busy_site.settings.retention.model_copy(update={"pixels_days": 0.0})
    retention.enforce(busy_site.database, busy_site.spool, settings, now=busy_site.now)
    assert integrity.verify(busy_site.database).changed == ("delivery 1", "image 1")
    report = integrity.check(busy_site.database, busy_site.spool)
    assert [fault.code for fault in report.faults] == ["changed_row"]


def test_without_all_the_newest_events_and_their_rows_are_checked(
    busy_site: Any, monkeypatch: pytest.MonkeyPatch, noon: datetime
) -> None:
    with busy_site.database.read() as session:
        (last,) = session.connection().exec_driver_sql("SELECT max(id) FROM event").one()
    monkeypatch.setattr(integrity, "NEWEST", 1)
    with busy_site.database.begin() as session:
        append_event(session, EventKind.SERVICE_STARTED, now=noon)
    with closing(sqlite3.connect(busy_site.database.path)) as connection, connection:
        connection.execute("UPDATE image SET peer_ae_title = 'OTHER' WHERE id = 1")
    newest = integrity.verify(busy_site.database)
    assert (newest.ok, newest.first, newest.events) == (True, last + 1, last + 1)
    whole = integrity.verify(busy_site.database, everything=True)
    assert (whole.ok, whole.first, whole.changed) == (False, 1, ("image 1",))


def test_who_released_and_requeued_is_in_the_event(busy_site: Any) -> None:
    with busy_site.database.begin() as session:
        operator_actions.release(session, 2, busy_site.now, by=account.account_facts())
    with busy_site.database.read() as session:
        (found,) = session.connection().exec_driver_sql("SELECT facts FROM event WHERE kind = 'job_released'").one()
    assert f'"uid":{os.getuid()}' in found
    assert f'"account":"{account.account_name()}"' in found


@pytest.mark.parametrize(
    ("content", "expected"), [("1000", {"login_uid": 1000}), ("4294967295", {}), ("", {}), (None, {})]
)
def test_the_login_stands_beside_the_account(tmp_path: Path, content: str | None, expected: dict[str, int]) -> None:
    login = tmp_path / "loginuid"
    if content is not None:
        login.write_text(content)
    found = account.account_facts(login)
    assert {name: found[name] for name in found if name == "login_uid"} == expected


def test_every_subject_has_its_table() -> None:
    names = {table.name for table in Base.metadata.sorted_tables}
    assert {table for table, _ in SUBJECTS.values()} <= names
    assert {name.split(".")[0] for name in UNSEALED} <= names
