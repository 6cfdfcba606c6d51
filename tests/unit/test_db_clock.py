"""A clock that was set back, or jumps ahead: jobs, deliveries and leases are not lost, doubled or starved."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from cxr.domain import DeliveryState, JobState
from db import deliveries, images, jobs
from db.engine import Database
from db.events import verify_chain
from db.upkeep import clock_steps, leases

YEARS = timedelta(days=1500)
LEASE_S = 60.0

pytestmark = pytest.mark.parametrize("back", [timedelta(hours=1), YEARS], ids=["an hour", "years"])


@pytest.fixture
def queued(audit_database: Database, make_receipt: Callable[..., Any], noon: datetime) -> Database:
    with audit_database.begin() as session:
        images.receive(session, make_receipt(0), now=noon)
    return audit_database


def settle(database: Database, now: datetime) -> int:
    with database.begin() as session:
        return clock_steps.bring_future_times_forward(session, now=now, job_lease_s=LEASE_S, delivery_lease_s=LEASE_S)


def claim(database: Database, now: datetime, worker: str = "w") -> list[Any]:
    with database.begin() as session:
        return jobs.claim(session, worker_id=worker, limit=9, now=now, lease_s=LEASE_S)


def test_a_retry_that_was_planned_in_the_future_is_due(queued: Database, noon: datetime, back: timedelta) -> None:
    (job,) = claim(queued, noon)
    with queued.begin() as session:
        jobs.fail(
            session, job.id, worker_id="w", code="decoder_crashed", retryable=True, max_attempts=3, retry_s=30, now=noon
        )
    assert claim(queued, noon - back) == []
    assert settle(queued, noon - back) == 1
    assert [each.attempt for each in claim(queued, noon - back)] == [2]


def test_a_dead_worker_s_job_is_free_after_one_lease(queued: Database, noon: datetime, back: timedelta) -> None:
    claim(queued, noon)
    now = noon - back
    settle(queued, now)
    with queued.begin() as session:
        assert jobs.release_expired(session, retry_s=30, now=now) == 0, "its worker may live"
        now += timedelta(seconds=LEASE_S)
        assert jobs.release_expired(session, retry_s=30, now=now) == 1
    assert [each.attempt for each in claim(queued, now, "other")] == [1]


def test_a_living_worker_keeps_its_job(
    queued: Database, noon: datetime, back: timedelta, make_scored: Any, make_report: Any
) -> None:
    (job,) = claim(queued, noon)
    now = noon - back
    settle(queued, now)
    now += timedelta(seconds=LEASE_S / 3)
    with queued.begin() as session:
        assert jobs.renew(session, [job.id], worker_id="w", now=now, lease_s=LEASE_S) == {job.id}
        now += timedelta(seconds=LEASE_S - 1)
        assert jobs.release_expired(session, retry_s=30, now=now) == 0
        jobs.finish(
            session,
            job.id,
            worker_id="w",
            scored=make_scored(covid19=0.5),
            reports=[make_report()],
            destinations=["pacs"],
            now=now,
        )
        (row,) = jobs.list_jobs(session, state=None, limit=9)
        assert row.state is JobState.REPORTED
        assert verify_chain(session).ok, "the log is in the order of what happened, whatever the clock said"


def reported(database: Database, now: datetime, make_scored: Any, make_report: Any) -> None:
    (job,) = claim(database, now)
    with database.begin() as session:
        jobs.finish(
            session,
            job.id,
            worker_id="w",
            scored=make_scored(covid19=0.5),
            reports=[make_report()],
            destinations=["pacs"],
            now=now,
        )


def take(database: Database, now: datetime, sender: str = "a") -> list[Any]:
    with database.begin() as session:
        return deliveries.claim(session, destination="pacs", sender_id=sender, limit=9, now=now, lease_s=LEASE_S)


def test_a_delivery_that_was_planned_in_the_future_is_due(
    queued: Database, noon: datetime, back: timedelta, make_scored: Any, make_report: Any
) -> None:
    reported(queued, noon, make_scored, make_report)
    now = noon - back
    assert take(queued, now) == []
    assert settle(queued, now) == 2  # the job's row, too, says that it was changed in the future
    assert len(take(queued, now)) == 1
    assert take(queued, now, "b") == []
    assert settle(queued, now) == 0


def test_a_dead_sender_s_delivery_is_free_after_one_lease(
    queued: Database, noon: datetime, back: timedelta, make_scored: Any, make_report: Any
) -> None:
    reported(queued, noon, make_scored, make_report)
    assert len(take(queued, noon)) == 1
    now = noon - back
    settle(queued, now)
    assert take(queued, now, "b") == []
    assert len(take(queued, now + timedelta(seconds=LEASE_S), "b")) == 1


def test_a_sent_report_is_looked_for_and_keeps_its_state(
    queued: Database, noon: datetime, back: timedelta, make_scored: Any, make_report: Any
) -> None:
    reported(queued, noon, make_scored, make_report)
    (delivery,) = take(queued, noon)
    with queued.begin() as session:
        deliveries.mark_sent(
            session,
            delivery.id,
            status=0,
            sop_class_uid=delivery.sop_class_uid,
            sop_instance_uid=delivery.sop_instance_uid,
            verify_at=noon + timedelta(seconds=30),
            now=noon,
        )
    settle(queued, noon - back)
    (again,) = take(queued, noon - back)
    assert again.state is DeliveryState.SENT


def test_nothing_changes_while_the_clock_runs_as_it_should(
    queued: Database, noon: datetime, back: timedelta, make_scored: Any, make_report: Any
) -> None:
    (job,) = claim(queued, noon)
    assert settle(queued, noon) == 0
    assert settle(queued, noon - timedelta(seconds=2)) == 0, "a clock that is trimmed"
    with queued.begin() as session:
        jobs.fail(session, job.id, worker_id="w", code="x", retryable=True, max_attempts=3, retry_s=3600, now=noon)
    assert settle(queued, noon) == 0
    assert claim(queued, noon) == []
    assert settle(queued, noon + back) == 0, "ahead is no reason"


def test_a_dead_holder_s_lease_ends(audit_database: Database, noon: datetime, back: timedelta) -> None:
    def hold(holder: str, now: datetime) -> bool:
        with audit_database.begin() as session:
            return leases.hold(session, name="maintenance", holder=holder, ttl_s=30, now=now)

    assert hold("dead", noon)
    assert not hold("b", noon - timedelta(seconds=20))
    assert hold("b", noon - back)
    assert not hold("dead", noon - back)


def test_a_jump_ahead_costs_nothing(
    queued: Database, noon: datetime, back: timedelta, make_scored: Any, make_report: Any
) -> None:
    """The lease is over at once; whoever is faster writes the only result."""
    claim(queued, noon)
    ahead = noon + back
    with queued.begin() as session:
        assert jobs.release_expired(session, retry_s=30, now=ahead) == 1
    reported(queued, ahead, make_scored, make_report)
    with queued.read() as session:
        (row,) = jobs.list_jobs(session, state=None, limit=9)
        assert (row.state, row.attempts) == (JobState.REPORTED, 1)
        assert len(deliveries.list_deliveries(session)) == 1
