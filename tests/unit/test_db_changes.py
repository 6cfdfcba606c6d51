"""An idle worker asks whether anything was committed, and reads the queue only then."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Engine, event

from config.settings import WorkerSettings
from db.disk import Spool
from db.engine import Database
from db.events import EventKind, append_event
from db.sqlite import changes, write_notice
from db.sqlite.changes import ChangeWatch
from db.sqlite.driver import sqlite3
from inference.worker.claimed_jobs import ClaimedJobs


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "REST_S", 1e9)


def commit(database: Database, noon: datetime) -> None:
    with database.begin() as session:
        append_event(session, EventKind.SERVICE_STARTED, now=noon)


def test_each_commit_is_worth_one_look(audit_database: Database, noon: datetime) -> None:
    watch = ChangeWatch(audit_database.path)
    for _ in range(3):
        assert watch.has_new_commit()
        assert watch.is_read_due()
        assert not watch.has_new_commit()
        assert not watch.is_read_due()
        with audit_database.read() as session:
            session.connection().exec_driver_sql("SELECT count(*) FROM event").one()
        assert not watch.is_read_due()
        commit(audit_database, noon)
    other = sqlite3.connect(audit_database.path)
    assert watch.is_read_due()
    with other:
        other.execute("INSERT INTO lease VALUES ('x', 'y', '2026-01-01 00:00:00.000000')")
    other.close()
    assert watch.is_read_due()
    assert not watch.is_read_due()
    watch.force_read()
    assert watch.is_read_due()
    watch.close()
    assert watch.is_read_due()
    watch.close()


def test_without_a_commit_one_looks_now_and_then(audit_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = ChangeWatch(audit_database.path)
    assert watch.is_read_due()
    monkeypatch.setattr(changes, "REST_S", 0.0)
    assert watch.is_read_due()
    watch.close()


def test_a_database_that_can_not_be_asked_is_worth_a_look(tmp_path: Any) -> None:
    watch = ChangeWatch(tmp_path / "absent" / "audit.sqlite")
    assert watch.is_read_due()
    assert watch.is_read_due()


def test_an_idle_worker_reads_no_table_and_takes_what_comes_at_once(
    audit_site: Any,
) -> None:
    spool: Spool = audit_site.spool
    held = ClaimedJobs(audit_site.database, spool, WorkerSettings(), worker_id="w", clock=lambda: audit_site.now)
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    assert held.claim(4) == []
    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert [held.claim(4) for _ in range(100)] == [[]] * 100
        assert asked == []
        for seed in range(6):
            audit_site.receive(seed)
        assert len(held.claim(4)) == 4
        assert len(held.claim(4)) == 2
        assert held.claim(4) == []
        asked.clear()
        assert held.claim(4) == []
        assert asked == []
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        held.close()


def test_waiting_for_work_ends_with_a_commit_a_promotion_or_the_stop(
    audit_site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_notice, "COMMIT_S", 1e9)  # the kernel's part is in test_db_write_notice
    settings = WorkerSettings(poll_s=0.01)
    held = ClaimedJobs(audit_site.database, audit_site.spool, settings, worker_id="w", clock=lambda: audit_site.now)
    stop, waits = threading.Event(), list[float]()
    ask = stop.wait

    def wait(timeout: float | None = None) -> bool:
        waits.append(timeout or 0.0)
        return ask(0)

    stop.wait = wait  # type: ignore[method-assign]
    held.claim(1)
    held.wait_for_work(stop, lambda: False)
    assert len(waits) == 300  # some seconds, at last: what was planned falls due without a commit
    waits.clear()
    held.wait_for_work(stop, lambda: True)
    assert len(waits) == 1
    audit_site.receive(1)
    waits.clear()
    held.wait_for_work(stop, lambda: False)
    assert len(waits) == 1
    assert len(held.claim(1)) == 1
    stop.set()
    held.wait_for_work(stop, lambda: False)
    assert len(waits) == 2
    held.close()
