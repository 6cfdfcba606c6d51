"""The counts by state are those of the rows, whatever happens to them, and reading them reads no history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from cxr.domain import DeliveryState, JobState
from db import images, jobs
from db.disk import Spool
from db.engine import Database
from db.schema import counts
from db.schema.records import Receipt
from db.schema.tables import Job
from db.sqlite.driver import sqlite3
from db.upkeep.integrity import check


@pytest.fixture
def receive(audit_database: Database, make_receipt: Callable[..., Receipt], noon: datetime) -> Callable[[int], int]:
    numbers = count(1)

    def one(seed: int) -> int:
        with audit_database.begin() as session:
            return images.receive(session, make_receipt(1000 * next(numbers) + seed), now=noon).job_id

    return one


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(JobState)), max_size=12))
def test_counts_follow_every_change(
    audit_database: Database, receive: Callable[..., int], changes: list[tuple[int, JobState]]
) -> None:
    ids = [receive(seed) for seed in range(5)]
    with audit_database.begin() as session:
        for place, state in changes:
            session.execute(update(Job).where(Job.id == ids[place]).values(state=state))
        counted = counts.count_by_state(session, "job", JobState)
        assert counted == dict.fromkeys(JobState, 0) | Counter(session.scalars(select(Job.state)))
        assert counts.count_by_state(session, "delivery", DeliveryState) == dict.fromkeys(DeliveryState, 0)


def test_removed_row_counts_no_more(audit_database: Database, receive: Callable[..., int]) -> None:
    receive(0)
    with audit_database.begin() as session:
        session.execute(delete(Job))
        assert counts.count_by_state(session, "job", JobState) == dict.fromkeys(JobState, 0)


def test_counting_reads_the_counts_alone(audit_database: Database) -> None:
    with audit_database.read() as session:
        statement = "EXPLAIN QUERY PLAN SELECT state, count FROM tally WHERE subject = 'job'"
        (step,) = [row[3] for row in session.connection().exec_driver_sql(statement).all()]
    assert step.startswith("SEARCH tally USING")


def test_check_finds_counts_that_are_not_the_rows(
    audit_database: Database, make_receipt: Callable[..., Receipt], tmp_path: Path, noon: datetime
) -> None:
    spool = Spool(tmp_path / "spool", min_free_mib=1)
    spool.prepare()
    with audit_database.begin() as session:
        name = spool.write(b"pixels", suffix=".dcm")
        images.receive(session, make_receipt(1, spool_name=name), now=noon)
        jobs.claim(session, worker_id="w", limit=1, now=noon, lease_s=1)
    assert check(audit_database, spool).faults == ()
    with sqlite3.connect(audit_database.path) as connection:
        connection.execute("UPDATE tally SET count = count + 1 WHERE state = 'scoring'")
    connection.close()
    assert [fault.code for fault in check(audit_database, spool).faults] == ["changed_row"]
