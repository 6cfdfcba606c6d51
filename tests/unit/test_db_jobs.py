"""The queue: claims, leases, late workers, retries, and that the events tell the same story."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select, text, update

from cxr.domain import JobState, ScoredImage, View
from cxr.errors import LeaseLost, MissingRow, StorageError
from db import images, jobs
from db.engine import Database, Session
from db.events import EventKind
from db.jobs.states import move, select_jobs
from db.schema import statements
from db.schema.records import ClaimedJob, JobRow, Receipt, ReportRecord
from db.schema.tables import Event, Image, Job
from db.upkeep.replay import differing_rows

LEASE_S = 60.0
FAILURE = {"code": "decoder_crashed", "max_attempts": 3, "retry_s": 30.0}


@pytest.fixture
def receive(audit_database: Database, make_receipt: Callable[..., Receipt], noon: datetime) -> Callable[..., int]:
    def one(seed: int = 1, **fields: Any) -> int:
        with audit_database.begin() as session:
            return images.receive(session, make_receipt(seed, **fields), now=noon).job_id

    return one


def _claim(session: Session, now: datetime, worker: str = "w1", limit: int = 10) -> list[ClaimedJob]:
    return jobs.claim(session, worker_id=worker, limit=limit, now=now, lease_s=LEASE_S)


def _only(session: Session) -> JobRow:
    (job,) = jobs.list_jobs(session)
    return job


def _kinds(session: Session) -> list[str]:
    return list(session.scalars(select(Event.kind).where(Event.job_id.is_not(None)).order_by(Event.id)))


def test_the_oldest_come_first_and_once(audit_database: Database, receive: Callable[..., int], noon: datetime) -> None:
    ids = [receive(seed) for seed in range(5)]
    with audit_database.begin() as session:
        first = _claim(session, noon, limit=3)
        rest = _claim(session, noon, worker="w2")
        assert _claim(session, noon) == []
    assert [job.id for job in first] == ids[:3]
    assert [job.id for job in rest] == ids[3:]
    assert (first[0].attempt, first[0].spool_name, first[0].peer_ae_title) == (1, f"{0:032x}.dcm", "MODALITY")


@pytest.mark.parametrize("state", [JobState.HELD, JobState.NOT_SCORED])
def test_only_queued_jobs_are_claimed(
    audit_database: Database, receive: Callable[..., int], noon: datetime, state: JobState
) -> None:
    receive(initial_state=state)
    with audit_database.begin() as session:
        assert _claim(session, noon) == []


def test_a_result_is_one_transaction(
    audit_database: Database,
    receive: Callable[..., int],
    make_scored: Callable[..., ScoredImage],
    make_report: Callable[..., ReportRecord],
    noon: datetime,
) -> None:
    job_id = receive()
    with audit_database.begin() as session:
        _claim(session, noon)
    with audit_database.begin() as session:
        unused = jobs.finish(
            session,
            job_id,
            worker_id="w1",
            scored=make_scored(covid19=0.75, normal=0.25),
            reports=[make_report(1), make_report(2, kind="saliency")],
            destinations=["pacs", "research"],
            now=noon,
        )
    assert unused == ()
    with audit_database.read() as session:
        rows = session.execute(text("SELECT * FROM results ORDER BY finding")).mappings().all()
        assert [(row["finding"], row["score"], row["at_or_above"], row["state"]) for row in rows] == [
            ("covid19", 0.75, 1, "reported"),
            ("normal", 0.25, 0, "reported"),
        ]
        assert {(row["model"], row["model_version"], row["model_status"], row["delivered"]) for row in rows} == {
            ("resnet50", "1.0.0", "evaluated", 0)
        }
        assert session.scalar(text("SELECT count(*) FROM deliveries WHERE state = 'pending'")) == 4
        assert _kinds(session) == [
            "received",
            "job_claimed",
            *["report_written", "delivery_created", "delivery_created"] * 2,
            "job_reported",
        ]
        assert differing_rows(session) == []


def test_a_result_that_can_not_be_written_leaves_nothing(
    audit_database: Database,
    receive: Callable[..., int],
    make_scored: Callable[..., ScoredImage],
    make_report: Callable[..., ReportRecord],
    noon: datetime,
) -> None:
    job_id = receive()
    with audit_database.begin() as session:
        _claim(session, noon)

    def finish(*reports: ReportRecord) -> None:
        scored = make_scored(covid19=0.75)
        with audit_database.begin() as session:
            jobs.finish(
                session, job_id, worker_id="w1", scored=scored, reports=reports, destinations=["pacs"], now=noon
            )

    with pytest.raises(StorageError, match="SQLITE_CONSTRAINT"):  # two objects in one file
        finish(make_report(1), make_report(2, spool_name=make_report(1).spool_name))
    with audit_database.read() as session:
        assert _only(session).state is JobState.SCORING
        for view in ("scores", "reports", "deliveries"):
            assert session.scalar(text(f"SELECT count(*) FROM {view}")) == 0
        assert _kinds(session) == ["received", "job_claimed"]
    finish(make_report(1))


def test_one_uid_is_one_report(
    audit_database: Database,
    receive: Callable[..., int],
    make_scored: Callable[..., ScoredImage],
    make_report: Callable[..., ReportRecord],
    noon: datetime,
) -> None:
    """An image goes from content A to B and back to A: the third result has the first one's UID."""
    receive(1)
    receive(1, dataset_digest="b" * 64, pixel_digest="b" * 64, spool_name="b")
    receive(1, spool_name="c")
    unused = []
    for report in (make_report(1), make_report(2), make_report(1, spool_name="again")):
        with audit_database.begin() as session:
            (job,) = _claim(session, noon, limit=1)
            scored = make_scored(covid19=0.5)
            unused += jobs.finish(
                session, job.id, worker_id="w1", scored=scored, reports=[report], destinations=["pacs"], now=noon
            )
    assert unused == ["again"]
    with audit_database.read() as session:
        reports = session.execute(text("SELECT job_id, report_id, sop_instance_uid FROM reports ORDER BY job_id")).all()
        assert [tuple(row) for row in reports] == [(1, 1, "2.25.11"), (2, 2, "2.25.21"), (3, 1, "2.25.11")]
        assert session.scalar(text("SELECT count(*) FROM deliveries")) == 2
        delivered = session.scalars(text("SELECT delivered FROM results ORDER BY job_id")).all()
    assert delivered == [0, 0, 0]


def test_a_late_worker_can_not_write(
    audit_database: Database,
    receive: Callable[..., int],
    make_scored: Callable[..., ScoredImage],
    noon: datetime,
) -> None:
    job_id = receive()
    later = noon + timedelta(seconds=LEASE_S)
    with audit_database.begin() as session:
        _claim(session, noon)
        assert jobs.release_expired(session, retry_s=30, now=later - timedelta(microseconds=1)) == 0
        assert jobs.release_expired(session, retry_s=30, now=later) == 1
        (again,) = _claim(session, later, worker="w2")
        assert again.attempt == 1
        for job_of in ("w1", "nobody"):
            with pytest.raises(LeaseLost):
                jobs.finish(
                    session,
                    job_id,
                    worker_id=job_of,
                    scored=make_scored(covid19=0.1),
                    reports=[],
                    destinations=[],
                    now=later,
                )
            with pytest.raises(LeaseLost):
                jobs.fail(session, job_id, worker_id=job_of, retryable=True, now=later, **FAILURE)
        scored = make_scored(covid19=0.9)
        jobs.finish(session, job_id, worker_id="w2", scored=scored, reports=[], destinations=[], now=later)
        with pytest.raises(LeaseLost):
            jobs.finish(session, job_id, worker_id="w2", scored=scored, reports=[], destinations=[], now=later)
        assert session.scalars(text("SELECT score FROM results")).all() == [0.9]


def test_a_worker_that_was_slow_but_still_holds_the_job_may_finish(
    audit_database: Database, receive: Callable[..., int], make_scored: Callable[..., ScoredImage], noon: datetime
) -> None:
    job_id = receive()
    with audit_database.begin() as session:
        _claim(session, noon)
        later = noon + timedelta(seconds=10 * LEASE_S)
        scored = make_scored(covid19=0.9)
        jobs.finish(session, job_id, worker_id="w1", scored=scored, reports=[], destinations=[], now=later)
        assert _only(session).state is JobState.REPORTED


def test_a_heartbeat_keeps_the_lease(audit_database: Database, receive: Callable[..., int], noon: datetime) -> None:
    first, second = receive(1), receive(2)
    with audit_database.begin() as session:
        _claim(session, noon)
        half = noon + timedelta(seconds=LEASE_S / 2)
        assert jobs.renew(session, [first], worker_id="w1", now=half, lease_s=LEASE_S) == {first}
        assert jobs.renew(session, [first], worker_id="w2", now=half, lease_s=LEASE_S) == frozenset()
        assert jobs.release_expired(session, retry_s=30, now=noon + timedelta(seconds=LEASE_S)) == 1
        held = jobs.renew(session, {first, second}, worker_id="w1", now=half, lease_s=LEASE_S)
    assert held == {first}


def test_attempts_run_out(audit_database: Database, receive: Callable[..., int], noon: datetime) -> None:
    job_id = receive()
    now, waits = noon, []
    with audit_database.begin() as session:
        for attempt in (1, 2, 3):
            (job,) = _claim(session, now)
            assert job.attempt == attempt
            state = jobs.fail(session, job_id, worker_id="w1", retryable=True, now=now, **FAILURE)
            not_before = _only(session).not_before
            if not_before is not None:
                waits.append((not_before - now).total_seconds())
                assert _claim(session, not_before - timedelta(microseconds=1)) == []
                now = not_before
        row = _only(session)
    assert (state, row.state, row.error_code, row.attempts) == (JobState.FAILED, JobState.FAILED, "decoder_crashed", 3)
    assert waits == [30, 60]


def test_a_final_fault_is_final(audit_database: Database, receive: Callable[..., int], noon: datetime) -> None:
    job_id = receive()
    with audit_database.begin() as session:
        _claim(session, noon)
        state = jobs.fail(session, job_id, worker_id="w1", retryable=False, now=noon, **FAILURE)
        assert (state, _only(session).attempts) == (JobState.FAILED, 1)


def test_leases_that_run_out_cost_no_attempt_and_fail_nothing_within_a_week(
    audit_database: Database, receive: Callable[..., int], noon: datetime
) -> None:
    job_id = receive()
    now, waits = noon, []
    with audit_database.begin() as session:
        while now < noon + timedelta(days=6.9):
            (claimed,) = _claim(session, now)
            assert claimed.attempt == 1
            now += timedelta(seconds=LEASE_S)
            assert jobs.release_expired(session, retry_s=30, now=now) == 1
            row = _only(session)
            assert (row.state, row.error_code, row.attempts) == (JobState.QUEUED, "lease_expired", 0)
            waits.append(((row.not_before or now) - now).total_seconds())
            now = row.not_before or now
        spread = 1 + job_id / 16
        assert waits[:5] == pytest.approx([0, *(spread * each for each in (30, 60, 120, 240))])
        assert max(waits) == pytest.approx(spread * 3600)

        now += timedelta(days=1)
        _claim(session, now)
        now += timedelta(seconds=LEASE_S)
        assert jobs.release_expired(session, retry_s=30, now=now) == 1
        assert (_only(session).state, _only(session).error_code) == (JobState.FAILED, "lease_expired")
        assert _kinds(session)[1:5] == ["job_claimed", "job_lease_expired"] * 2
        assert _kinds(session)[-1] == "job_failed"

        jobs.requeue(session, job_id, now)  # with all its time
        _claim(session, now)
        now += timedelta(days=30)
        assert jobs.release_expired(session, retry_s=30, now=now) == 1
        assert (_only(session).state, _only(session).not_before) == (JobState.QUEUED, None)


def test_a_clock_that_jumps_ahead_fails_no_job_whose_lease_runs_out(
    audit_database: Database, receive: Callable[..., int], noon: datetime
) -> None:
    receive()
    with audit_database.begin() as session:
        for now in (noon, noon + timedelta(days=400)):
            _claim(session, now)
            jobs.release_expired(session, retry_s=30, now=now + timedelta(seconds=LEASE_S))
        assert _only(session).state is JobState.QUEUED


def test_an_orderly_stop_costs_no_attempt(
    audit_database: Database, receive: Callable[..., int], noon: datetime
) -> None:
    for seed in (1, 2, 3):
        receive(seed)
    with audit_database.begin() as session:
        _claim(session, noon, limit=2)
        _claim(session, noon, worker="w2")
        assert jobs.give_back(session, worker_id="w1", now=noon) == 2
        assert [job.attempt for job in _claim(session, noon, worker="w3")] == [1, 1]
        assert jobs.count_by_state(session)[JobState.SCORING] == 3


def test_held_images_are_released(audit_database: Database, receive: Callable[..., int], noon: datetime) -> None:
    held, queued = receive(1, initial_state=JobState.HELD), receive(2)
    with audit_database.begin() as session:
        jobs.release(session, held, noon)
        for job_id in (held, queued):
            with pytest.raises(StorageError, match="accepted is a job that is held"):
                jobs.release(session, job_id, noon)
        with pytest.raises(MissingRow):
            jobs.release(session, 99, noon)
        assert [job.id for job in _claim(session, noon)] == [held, queued]


def test_failed_images_are_requeued_with_all_attempts(
    audit_database: Database, receive: Callable[..., int], noon: datetime
) -> None:
    job_id = receive()
    with audit_database.begin() as session:
        with pytest.raises(StorageError, match="accepted is a job that is failed"):
            jobs.requeue(session, job_id, noon)
        _claim(session, noon)
        jobs.fail(session, job_id, worker_id="w1", retryable=False, now=noon, **FAILURE)
        jobs.requeue(session, job_id, noon)
        row = _only(session)
        assert (row.state, row.attempts, row.error_code) == (JobState.QUEUED, 0, None)
        assert [job.attempt for job in _claim(session, noon)] == [1]


def test_work_without_its_object(audit_database: Database, receive: Callable[..., int], noon: datetime) -> None:
    queued, held = receive(1), receive(2, initial_state=JobState.HELD)
    with audit_database.begin() as session:
        session.execute(update(Image).values(spool_name=None))
        assert _claim(session, noon) == []
        states = {job.id: (job.state, job.error_code) for job in jobs.list_jobs(session)}
        assert states == {queued: (JobState.FAILED, "missing_object"), held: (JobState.HELD, None)}
        with pytest.raises(MissingRow, match="send the image again"):
            jobs.requeue(session, queued, noon)
        with pytest.raises(MissingRow, match="send the image again"):
            jobs.release(session, held, noon)
        assert differing_rows(session) == []


def test_what_nobody_wants_is_discarded(audit_database: Database, receive: Callable[..., int], noon: datetime) -> None:
    held, queued = receive(1, initial_state=JobState.HELD), receive(2)
    with audit_database.begin() as session:
        jobs.discard(session, held, reason="purged", now=noon)
        with pytest.raises(StorageError, match="queued and can't become not_scored"):
            jobs.discard(session, queued, reason="purged", now=noon)
        (row,) = jobs.list_jobs(session, state=JobState.NOT_SCORED)
        assert (row.id, row.reason) == (held, "purged")


LEGAL = {
    ("held", "queued"),
    ("held", "not_scored"),
    ("queued", "scoring"),
    ("queued", "not_scored"),  # its patient was forgotten
    ("scoring", "reported"),
    ("scoring", "queued"),
    ("scoring", "failed"),
    ("scoring", "held"),
    ("scoring", "not_scored"),
    ("failed", "queued"),
    ("failed", "not_scored"),
}


def test_the_table_of_transitions(audit_database: Database, receive: Callable[..., int], noon: datetime) -> None:
    job_id = receive()
    for state, to in product(JobState, JobState):
        with audit_database.begin() as session:
            session.execute(update(Job).values(state=state))
            (job,) = select_jobs(session, Job.id == job_id)
            if (str(state), str(to)) in LEGAL:
                move(session, job, to, EventKind.JOB_RELEASED, now=noon)
                assert _only(session).state is to
            else:
                with pytest.raises(StorageError, match=f"can't become {to}"):
                    move(session, job, to, EventKind.JOB_RELEASED, now=noon)
                assert _only(session).state is state


def test_jobs_are_listed_latest_first(audit_database: Database, receive: Callable[..., int], noon: datetime) -> None:
    ids = [receive(seed, initial_state=JobState.HELD if seed % 2 else JobState.QUEUED) for seed in range(4)]
    with audit_database.read() as session:
        assert [job.id for job in jobs.list_jobs(session)] == ids[::-1]
        assert [job.id for job in jobs.list_jobs(session, state=JobState.HELD)] == [ids[3], ids[1]]
        assert [job.id for job in jobs.list_jobs(session, limit=1)] == [ids[3]]
        counts = jobs.count_by_state(session)
    assert counts == dict.fromkeys(JobState, 0) | {JobState.HELD: 2, JobState.QUEUED: 2}


def test_hot_statements_scan_no_table(audit_database: Database, receive: Callable[..., int], noon: datetime) -> None:
    """Every statement of receiving, claiming, renewing and releasing goes through an index."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
        seen.append(statement)

    def note_and_send(session: Session, statement: str, values: Any) -> Any:
        seen.append(statement)
        return send(session, statement, values)

    send = statements.send
    with audit_database.begin() as session:
        event.listen(session.get_bind(), "before_cursor_execute", note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statements, "send", note_and_send)
        receive(1)
        receive(1)
    with audit_database.begin() as session:
        (job,) = _claim(session, noon)
        jobs.renew(session, [job.id], worker_id="w1", now=noon, lease_s=LEASE_S)
        jobs.release_expired(session, retry_s=30, now=noon)
        jobs.give_back(session, worker_id="w1", now=noon)
    plans = {}
    with audit_database.read() as session:
        for statement in {each for each in seen if re.match("SELECT|UPDATE", each)}:
            unbound = ["x"] * statement.count("?")
            rows = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", tuple(unbound)).all()
            plans[statement] = [row[3] for row in rows]
    assert len(plans) >= 6
    steps = [step for plan in plans.values() for step in plan]
    assert any("ix_job_state" in step for step in steps)
    # The chain's end is a scan of one row, from the end of the primary key.
    scans = {step: statement for statement, plan in plans.items() for step in plan if step.startswith("SCAN")}
    assert all("FROM event ORDER BY event.id DESC" in statement for statement in scans.values()), scans
    claim = next(plan for statement, plan in plans.items() if "LIMIT" in statement and statement.startswith("UPDATE"))
    assert not any("TEMP B-TREE" in step for step in claim), claim  # the oldest are found without sorting all


CLAIMER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from db import jobs
from db.engine import open_database
folder, worker = Path(sys.argv[1]), sys.argv[2]
database = open_database(folder / "data/audit.sqlite", folder / "keys/audit.key", create=False)
print("ready", flush=True)
sys.stdin.readline()
while True:
    with database.begin() as session:
        claimed = jobs.claim(session, worker_id=worker, limit=2, now=datetime.now(UTC), lease_s=600)
    if not claimed:
        break
    for job in claimed:
        print(job.id)
"""


def test_processes_claim_each_job_once(
    audit_database: Database, make_receipt: Callable[..., Receipt], tmp_path: Path, noon: datetime
) -> None:
    with audit_database.begin() as session:
        ids = [images.receive(session, make_receipt(seed), now=noon).job_id for seed in range(60)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CLAIMER, str(tmp_path), f"worker{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    said = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert Counter(int(line) for each in said for line in each.split()) == Counter(ids)
    with audit_database.read() as session:
        assert jobs.count_by_state(session)[JobState.SCORING] == 60
        assert differing_rows(session) == []


@pytest.mark.parametrize("to", [JobState.HELD, JobState.NOT_SCORED])
def test_an_image_is_set_aside_for_what_its_pixels_show(
    audit_database: Database, receive: Callable[..., int], noon: datetime, to: JobState
) -> None:
    job_id = receive()
    facts = {"seen_lateral": 0.97}
    with audit_database.begin() as session:
        (claimed,) = _claim(session, noon)
        assert (claimed.view, claimed.is_released) == (View.FRONTAL, False)
        with pytest.raises(LeaseLost):
            jobs.set_aside(session, job_id, worker_id="w2", to=to, reason="pixels_lateral", facts=facts, now=noon)
        jobs.set_aside(session, job_id, worker_id="w1", to=to, reason="pixels_lateral", facts=facts, now=noon)
    with audit_database.read() as session:
        job = _only(session)
        assert (job.state, job.reason, job.attempts) == (to, "pixels_lateral", 0)
        assert _kinds(session) == ["received", "job_claimed", "job_set_aside"]
        written = session.scalar(select(Event.facts).where(Event.kind == "job_set_aside"))
        found = {name: value for name, value in json.loads(written or "").items() if not name.startswith("row_")}
        assert found == {"state": to, "reason": "pixels_lateral", **facts}
        assert differing_rows(session) == []


def test_what_a_person_released_says_so_when_it_is_claimed(
    audit_database: Database, receive: Callable[..., int], noon: datetime
) -> None:
    job_id = receive()
    with audit_database.begin() as session:
        _claim(session, noon)
        jobs.set_aside(session, job_id, worker_id="w1", to=JobState.HELD, reason="pixels_lateral", facts={}, now=noon)
        jobs.release(session, job_id, noon)
    other = receive(2)
    with audit_database.begin() as session:
        claimed = {job.id: job.is_released for job in _claim(session, noon)}
    assert claimed == {job_id: True, other: False}


def test_something_is_due_exactly_when_a_claim_finds_it(
    audit_database: Database, receive: Callable[..., int], noon: datetime
) -> None:
    def is_due(at: datetime) -> bool:
        with audit_database.read() as session:
            return jobs.is_any_due(session, now=at)

    assert not is_due(noon)
    receive(1, initial_state=JobState.HELD)
    assert not is_due(noon)
    receive(2)
    assert is_due(noon)
    with audit_database.begin() as session:
        (job,) = _claim(session, noon)
        assert not jobs.is_any_due(session, now=noon)
        jobs.fail(session, job.id, worker_id="w1", code="decoder", retryable=True, max_attempts=3, retry_s=60, now=noon)
    assert not is_due(noon + timedelta(seconds=59))
    assert is_due(noon + timedelta(seconds=61))
