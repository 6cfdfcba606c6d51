"""What is asked all the time reads no table from end to end: SQLite's own plans of the statements as they are sent.

A table that grows with every image may be walked in its order where the first rows suffice: by its
number, latest or earliest first, until LIMIT ends it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import Engine, event

from app.metrics import QueueCollector
from config.settings import RetentionSettings
from cxr.domain import DeliveryState, JobState, View
from db import deliveries, images, jobs
from db.deliveries import claims
from db.disk import Spool
from db.engine import Database, Session
from db.events import read_head
from db.images import commitments, resends
from db.jobs import shadow_scores
from db.results.queries import ResultFilter, iterate_results, list_results, page_results, show
from db.schema import statements
from db.upkeep import clock_steps, leases, retention

GROWING = {
    "image", "identity", "decision", "job", "score", "report", "job_report", "delivery", "event", "shadow_result",
    "shadow_score", "commitment", "commitment_item", "custody", "newer", "resend",
}  # fmt: skip
_SCAN = re.compile(r"SCAN (?P<table>\w+)(?: USING (?P<index>.+))?")
# Of files that are there, and of what is to be done: not of all that ever were.
KEPT = {"INDEX ix_image_kept", "INDEX ix_report_kept", "INDEX ix_resend_due"}

Ask = Callable[[Database, datetime], object]


@contextmanager
def plans() -> Iterator[list[tuple[str, list[str]]]]:
    """Collect every statement that is sent, with SQLite's plan for it and its values."""
    found: list[tuple[str, list[str]]] = []

    send = statements.send

    def explain(connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, is_many: bool) -> None:
        if statement.split()[0] in {"SELECT", "UPDATE", "DELETE", "INSERT"} and not is_many:
            rows = connection.connection.driver_connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)
            found.append((statement, [row[3] for row in rows]))

    def explain_and_send(session: Session, statement: str, values: Any) -> Any:
        explain(session.connection(), None, statement, values, None, is_many=False)
        return send(session, statement, values)

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(statements, "send", explain_and_send)
            yield found
    finally:
        event.remove(Engine, "before_cursor_execute", explain)


def faults(statement: str, plan: list[str]) -> list[str]:
    """Steps of a plan that take longer with every image that ever came."""
    sorts = any(step == "USE TEMP B-TREE FOR ORDER BY" for step in plan)
    is_walk = "ORDER BY" in statement and "LIMIT" in statement and not sorts
    found = [step for step in plan if "AUTOMATIC" in step]
    for step in plan:
        scan = _SCAN.match(step)
        if scan and scan["table"] in GROWING and scan["index"] not in KEPT and not is_walk:
            found.append(step)
    return found


def listing(**which: Any) -> Ask:
    def ask(database: Database, _now: datetime) -> None:
        page_results(database, ResultFilter(limit=50, **which))

    return ask


def writing(what: Callable[..., object], **given: Any) -> Ask:
    """Call a function of ``db`` in a write transaction, with the time where it takes one."""

    def ask(database: Database, now: datetime) -> None:
        with database.begin() as session:
            what(session, **given, now=now)

    return ask


def reading(what: Callable[..., object], *given: Any, **named: Any) -> Ask:
    def ask(database: Database, _now: datetime) -> None:
        with database.read() as session:
            what(session, *given, **named)

    return ask


def _claim(database: Database, now: datetime) -> None:
    with database.begin() as session:
        (job, *_) = jobs.claim(session, worker_id="w", limit=2, now=now, lease_s=60)
        jobs.renew(session, [job.id], worker_id="w", now=now, lease_s=60)
        jobs.fail(session, job.id, worker_id="w", code="x", retryable=True, max_attempts=3, retry_s=9, now=now)


def _send(database: Database, now: datetime) -> None:
    with database.begin() as session:
        claimed = claims.claim(session, destination="pacs", sender_id="s", limit=8, now=now, lease_s=60)
        claims.renew(session, [each.id for each in claimed], sender_id="s", now=now, lease_s=60)
        claims.give_back(session, sender_id="s")


def _retain(database: Database, now: datetime) -> None:
    spool = Spool(database.path.parent / "spool", min_free_mib=1)
    spool.prepare()
    retention.enforce(database, spool, RetentionSettings(pixels_days=0, low_space_mib=10**9), now=now)
    retention.purge(database, spool, states=[JobState.HELD], older_than=timedelta(0), now=now)
    retention.sweep(database, spool, older_than=now, now=now)


def _resend(database: Database, now: datetime) -> None:
    with database.begin() as session:
        resends.record_resend(session, 1, "PACS")
        resends.record_resend(session, 2, "PACS")
    with database.read() as session:
        assert resends.is_any_due(session)
    with database.begin() as session:
        assert resends.create_deliveries(session, lambda *_: ("further",), limit=9, now=now) == 1


def _scrape(database: Database, _now: datetime) -> None:
    registry = CollectorRegistry()
    spool = Spool(database.path.parent / "spool", min_free_mib=1)
    spool.prepare()
    registry.register(QueueCollector(database, spool))
    generate_latest(registry)


QUESTIONS: dict[str, Ask] = {
    "claim": _claim,
    "is anything due": lambda database, now: reading(jobs.is_any_due, now=now)(database, now),
    "give back": writing(jobs.give_back, worker_id="w"),
    "release expired": writing(jobs.release_expired, retry_s=30),
    "settle the clock": writing(clock_steps.bring_future_times_forward, job_lease_s=60, delivery_lease_s=60),
    "claim deliveries": _send,
    "commitments due": lambda database, now: reading(commitments.is_any_due, now)(database, now),
    "claim commitments": writing(commitments.claim, limit=3, lease_s=9),
    "receive": reading(images.find_latest, "2.25.7"),
    "a resend": _resend,
    "lease": writing(leases.hold, name="maintenance", holder="w", ttl_s=30),
    "retention, purge and sweep": _retain,
    "metrics": _scrape,
    "head of events": reading(read_head),
    "shadow": reading(shadow_scores.current),
    **{f"jobs, {state or 'all'}": reading(jobs.list_jobs, state=state, limit=50) for state in (None, *JobState)},
    **{
        f"deliveries, {state or 'all'}": reading(deliveries.list_deliveries, state=state, limit=50)
        for state in (None, *DeliveryState)
    },
    "cxr audit show, by number": reading(show, 3),
    "cxr audit show, by UID": lambda database, now: reading(show, _uid(database))(database, now),
    "cxr audit list": listing(),
    **{f"cxr audit list, {state}": listing(state=state) for state in JobState},
    **{
        f"cxr audit list, {name}={value}": listing(**{name: value})
        for name, value in {
            "accession_number": "A7", "patient_id": "P7", "study_instance_uid": "2.26.7", "sop_instance_uid": "2.25.7",
            "finding": "covid19", "min_score": 0.9, "max_score": 0.1, "view": View.FRONTAL, "reason": "view_unknown",
            "delivered": False, "model": "m", "fingerprint": "ab", "peer_ae_title": "PACS", "error_code": "x",
            "latest_only": True, "of_shadow": True,
        }.items()
    },
    "cxr audit list, delivered": listing(delivered=True),
    "cxr audit list, high scores": listing(finding="covid19", min_score=0.9),
    "cxr audit export": lambda database, _now: list(iterate_results(database, ResultFilter())),
}  # fmt: skip


def _uid(database: Database) -> str:
    with database.read() as session:
        return list_results(session, ResultFilter(limit=1))[0].sop_instance_uid


@pytest.fixture
def filled(audit_site: Any) -> Any:
    """A database with an image in every state; its size does not matter, SQLite keeps no statistics of it."""
    site = audit_site
    site.receive(1)
    site.score(destinations=["pacs"])
    site.receive(2)
    site.fail()
    for seed, state in ((3, JobState.HELD), (4, JobState.NOT_SCORED), (5, JobState.QUEUED), (6, JobState.QUEUED)):
        site.receive(seed, state=state)
    return site


def test_no_table_that_grows_is_read_from_end_to_end(filled: Any) -> None:
    found = {}
    for question, ask in QUESTIONS.items():
        with plans() as sent:
            ask(filled.database, filled.now)
        assert sent, question
        found[question] = [(statement, steps) for statement, plan in sent if (steps := faults(statement, plan))]
    assert {question: steps for question, steps in found.items() if steps} == {}


FIRST_STEPS: dict[str, tuple[Ask, str]] = {
    # A walk from the latest on would read everything where fewer images than LIMIT came in that time.
    "since": (
        lambda base, now: listing(received_from=now)(base, now),
        "SEARCH image USING COVERING INDEX ix_image_received_at",
    ),
    "until": (
        lambda base, now: listing(received_until=now)(base, now),
        "SEARCH image USING COVERING INDEX ix_image_received_at",
    ),
    # And these are few among many.
    "undelivered": (listing(delivered=False), "SEARCH delivery USING INDEX ix_delivery_state (state=?)"),
    "error code": (listing(error_code="x"), "SEARCH job USING INDEX ix_job_error_code (error_code=?)"),
    # These are as many as there ever were: found by an index, they would all be sorted.
    "reported": (listing(state=JobState.REPORTED), "SEARCH image USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    "finding": (
        listing(finding="covid19", min_score=0.9),
        "SEARCH image USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
    ),
    # Files that are kept, not rows.
    "kept pixels": (_retain, "SEARCH image USING INDEX ix_image_kept"),
    "kept reports": (_retain, "SEARCH report USING INDEX ix_report_kept"),
}


def test_each_question_starts_where_few_rows_are(filled: Any) -> None:
    for name, (ask, step) in FIRST_STEPS.items():
        with plans() as sent:
            ask(filled.database, filled.now)
        assert any(found.startswith(step) for _, plan in sent for found in plan), (name, [plan for _, plan in sent])


def test_a_scan_is_seen(filled: Any) -> None:
    with plans() as sent, filled.database.read() as session:
        session.connection().exec_driver_sql("SELECT count(*) FROM job").all()
        session.connection().exec_driver_sql("SELECT * FROM job ORDER BY updated_at LIMIT 5").all()
        session.connection().exec_driver_sql("SELECT * FROM job ORDER BY id LIMIT 5").all()
    assert [bool(faults(*each)) for each in sent] == [True, True, False]
