"""Deliveries: claims by destination, outcomes, and a random walk over the whole life of images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import event, select, text, update

from cxr.domain import (
    DeliveryState,
    ImageHeader,
    JobState,
    PackageStatus,
    Score,
    ScoredImage,
    View,
    ViewDecision,
)
from cxr.errors import LeaseLost, MissingRow, StorageError
from db import images, jobs
from db.deliveries import outcomes as deliveries
from db.deliveries.states import get_delivery, move
from db.engine import Database, Session, open_database
from db.events import EventKind, verify_chain
from db.schema.records import ClaimedDelivery, Receipt, ReportRecord
from db.schema.tables import Delivery, Event, Job, Report
from db.upkeep.replay import differing_rows

LEASE_S = 60.0
UIDS = {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.33", "sop_instance_uid": "2.25.77"}


@pytest.fixture
def reported(
    audit_database: Database,
    make_receipt: Callable[..., Receipt],
    make_scored: Callable[..., ScoredImage],
    make_report: Callable[..., ReportRecord],
    noon: datetime,
) -> Database:
    """Two images with a report each, for two destinations."""
    with audit_database.begin() as session:
        for seed in (1, 2):
            images.receive(session, make_receipt(seed), now=noon)
        for job in jobs.claim(session, worker_id="w", limit=2, now=noon, lease_s=60):
            jobs.finish(
                session,
                job.id,
                worker_id="w",
                scored=make_scored(covid19=0.5),
                reports=[make_report(job.id)],
                destinations=["pacs", "research"],
                now=noon + timedelta(seconds=job.id),
            )
    return audit_database


@pytest.fixture
def after(noon: datetime) -> datetime:
    return noon + timedelta(minutes=1)


def _claim(
    session: Session, now: datetime, destination: str = "pacs", sender: str = "s1", limit: int = 10
) -> list[ClaimedDelivery]:
    return deliveries.claim(session, destination=destination, sender_id=sender, limit=limit, now=now, lease_s=LEASE_S)


def _delivered(session: Session) -> list[int | None]:
    return list(session.scalars(text("SELECT delivered FROM results ORDER BY image_id")))


def test_each_destination_has_its_own_queue(reported: Database, after: datetime) -> None:
    with reported.begin() as session:
        pacs = _claim(session, after)
        research = _claim(session, after, destination="research", sender="s2")
        assert _claim(session, after, destination="elsewhere") == []
    assert [(each.id, each.job_id, each.destination) for each in pacs] == [(1, 1, "pacs"), (3, 2, "pacs")]
    assert [each.id for each in research] == [2, 4]
    assert (pacs[0].study_instance_uid, pacs[0].sop_instance_uid) == ("1.2.4.1", "2.25.11")
    assert (pacs[0].state, pacs[0].attempts) == (DeliveryState.PENDING, 0)


def test_a_claim_is_a_lease(reported: Database, after: datetime) -> None:
    with reported.begin() as session:
        assert len(_claim(session, after, limit=1)) == 1
        assert [each.id for each in _claim(session, after, sender="s2")] == [3]
        ended = after + timedelta(seconds=LEASE_S)
        assert _claim(session, ended - timedelta(microseconds=1), sender="s3") == []
        assert deliveries.renew(session, [1, 3], sender_id="s1", now=after + timedelta(1), lease_s=LEASE_S) == {1}
        assert [each.id for each in _claim(session, ended, sender="s3")] == [3]
        deliveries.give_back(session, sender_id="s3")
        assert [each.id for each in _claim(session, ended, sender="s4")] == [3]


def test_a_sender_that_lost_its_lease_can_not_write(reported: Database, after: datetime) -> None:
    later = after + timedelta(seconds=LEASE_S)
    with reported.begin() as session:
        _claim(session, after)
        _claim(session, later, sender="s2")
        failure = {"code": "peer_busy", "status": None, "now": later, "sender_id": "s1"}
        with pytest.raises(LeaseLost):
            deliveries.mark_sent(session, 1, status=0, verify_at=None, now=later, sender_id="s1", **UIDS)
        with pytest.raises(LeaseLost):
            deliveries.retry(session, 1, not_before=later, **failure)  # type: ignore[arg-type]
        with pytest.raises(LeaseLost):
            deliveries.give_up(session, 1, **failure)  # type: ignore[arg-type]
        deliveries.mark_sent(session, 1, status=0, verify_at=None, now=later, sender_id="s2", **UIDS)


def test_sent_and_verified(reported: Database, after: datetime) -> None:
    verify_at = after + timedelta(seconds=2)
    with reported.begin() as session:
        _claim(session, after)
        deliveries.mark_sent(session, 1, status=0xB000, verify_at=verify_at, now=after, **UIDS)
        assert _claim(session, after) == []
        (due,) = _claim(session, verify_at)
        assert (due.state, due.attempts, due.delivered_sop_instance_uid) == (DeliveryState.SENT, 1, "2.25.77")
        deliveries.mark_verified(session, 1, verified_by="find", now=verify_at)
        assert _claim(session, verify_at + timedelta(days=1)) != []  # the other one, whose lease ended
        row = deliveries.list_deliveries(session, state=DeliveryState.VERIFIED)[0]
        assert (row.id, row.status, row.verified_by, row.due_at) == (1, 0xB000, "find", None)
        assert differing_rows(session) == []


def test_delivered_is_every_destination(reported: Database, after: datetime) -> None:
    with reported.begin() as session:
        assert _delivered(session) == [0, 0]
        deliveries.mark_sent(session, 1, status=0, verify_at=None, now=after, **UIDS)
        assert _delivered(session) == [0, 0]
        deliveries.mark_sent(session, 2, status=0, verify_at=None, now=after, **UIDS)
        assert _delivered(session) == [1, 0]
        deliveries.mark_verified(session, 2, verified_by="commitment", now=after)
        deliveries.give_up(session, 4, code="peer_refused", status=0xA900, now=after)
        assert _delivered(session) == [1, 0]


def test_without_a_destination_there_is_nothing_to_deliver(
    audit_database: Database,
    make_receipt: Callable[..., Receipt],
    make_scored: Callable[..., ScoredImage],
    make_report: Callable[..., ReportRecord],
    noon: datetime,
) -> None:
    with audit_database.begin() as session:
        images.receive(session, make_receipt(1), now=noon)
        (job,) = jobs.claim(session, worker_id="w", limit=1, now=noon, lease_s=60)
        scored = make_scored(covid19=0.5)
        jobs.finish(session, job.id, worker_id="w", scored=scored, reports=[make_report(1)], destinations=[], now=noon)
        assert _delivered(session) == [None]


def test_a_failed_try_waits(reported: Database, after: datetime) -> None:
    not_before = after + timedelta(hours=1)
    with reported.begin() as session:
        _claim(session, after)
        deliveries.retry(session, 1, code="peer_unreachable", status=None, not_before=not_before, now=after)
        deliveries.mark_sent(session, 3, status=0, verify_at=None, now=after, **UIDS)
        assert _claim(session, not_before - timedelta(microseconds=1)) == []
        (again,) = _claim(session, not_before)
        assert (again.id, again.attempts) == (1, 1)


def test_what_did_not_arrive_is_sent_again(reported: Database, after: datetime) -> None:
    with reported.begin() as session:
        deliveries.mark_sent(session, 1, status=0, verify_at=after, now=after, **UIDS)
        deliveries.retry(session, 1, code="not_verified", status=None, not_before=after, now=after)
        (again, _) = _claim(session, after)[::-1]
        assert (again.id, again.state, again.attempts) == (1, DeliveryState.PENDING, 1)
        deliveries.mark_sent(session, 1, status=0, verify_at=after, now=after, **UIDS)
        assert deliveries.list_deliveries(session)[-1].attempts == 2


def test_what_can_not_be_told_is_looked_for_later_or_never(reported: Database, after: datetime) -> None:
    later = after + timedelta(hours=1)
    with reported.begin() as session:
        deliveries.mark_sent(session, 1, status=0, verify_at=after, now=after, **UIDS)
        deliveries.check_again(session, 1, check_at=later, now=after)
        assert [each.id for each in _claim(session, after)] == [3]
        assert [each.state for each in _claim(session, later) if each.id == 1] == [DeliveryState.SENT]
        deliveries.check_again(session, 1, check_at=None, now=later)
        assert [each.id for each in _claim(session, later + timedelta(days=9))] == [3]


@pytest.mark.parametrize("state", [DeliveryState.PENDING, DeliveryState.VERIFIED, DeliveryState.DEAD])
def test_only_what_was_sent_is_looked_for(reported: Database, after: datetime, state: DeliveryState) -> None:
    with reported.begin() as session:
        session.execute(update(Delivery).values(state=state))
        with pytest.raises(StorageError, match="needs one that is sent"):
            deliveries.check_again(session, 1, check_at=None, now=after)


@pytest.mark.parametrize("state", [DeliveryState.VERIFIED, DeliveryState.DEAD])
def test_the_end_is_not_retried(reported: Database, after: datetime, state: DeliveryState) -> None:
    with reported.begin() as session:
        session.execute(update(Delivery).values(state=state))
        with pytest.raises(StorageError, match="needs one that is pending or sent"):
            deliveries.retry(session, 1, code="peer_busy", status=None, not_before=after, now=after)


def test_the_dead_are_requeued(reported: Database, after: datetime) -> None:
    with reported.begin() as session:
        with pytest.raises(StorageError, match="needs one that is dead"):
            deliveries.requeue(session, 1, after)
        deliveries.give_up(session, 1, code="peer_refused", status=0xA900, now=after)
        assert [each.id for each in _claim(session, after)] == [3]
        (row,) = deliveries.list_deliveries(session, state=DeliveryState.DEAD)
        assert (row.status, row.error_code, row.attempts) == (0xA900, "peer_refused", 1)
        deliveries.requeue(session, 1, after)
        (again,) = _claim(session, after)
        assert (again.id, again.attempts, again.requeued_at) == (1, 0, after)
        with pytest.raises(MissingRow):
            deliveries.requeue(session, 99, after)


def test_a_report_that_is_no_longer_kept(reported: Database, after: datetime) -> None:
    with reported.begin() as session:
        session.execute(update(Report).values(spool_name=None))
        assert _claim(session, after) == []
        (first, second) = deliveries.list_deliveries(session, destination="pacs")
        assert (first.state, first.error_code) == (DeliveryState.DEAD, "missing_object")
        with pytest.raises(MissingRow, match="no longer kept"):
            deliveries.requeue(session, second.id, after)
        assert differing_rows(session) == []


LEGAL = {
    ("pending", "pending"),
    ("pending", "sent"),
    ("pending", "dead"),
    ("sent", "sent"),
    ("sent", "verified"),
    ("sent", "pending"),
    ("sent", "dead"),
    ("dead", "pending"),
}


def test_the_table_of_transitions(reported: Database, after: datetime) -> None:
    for state, to in product(DeliveryState, DeliveryState):
        with reported.begin() as session:
            session.execute(update(Delivery).where(Delivery.id == 1).values(state=state))
            delivery = get_delivery(session, 1)
            if (str(state), str(to)) in LEGAL:
                move(session, delivery, to, EventKind.DELIVERY_SENT, now=after)
                assert get_delivery(session, 1).state is to
            else:
                with pytest.raises(StorageError, match=f"can't become {to}"):
                    move(session, delivery, to, EventKind.DELIVERY_SENT, now=after)


@pytest.mark.parametrize("state", [DeliveryState.SENT, DeliveryState.VERIFIED, DeliveryState.DEAD])
def test_only_what_is_pending_is_sent(reported: Database, after: datetime, state: DeliveryState) -> None:
    with reported.begin() as session:
        session.execute(update(Delivery).values(state=state))
        with pytest.raises(StorageError, match="needs one that is pending"):
            deliveries.mark_sent(session, 1, status=0, verify_at=None, now=after, **UIDS)


def test_due_deliveries_are_found_by_an_index(reported: Database, after: datetime) -> None:
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
        seen.append(statement)

    with reported.begin() as session:
        event.listen(session.get_bind(), "before_cursor_execute", note)
        _claim(session, after)
        deliveries.renew(session, [1], sender_id="s1", now=after, lease_s=1)
        get_delivery(session, 1)
    plans = []
    with reported.read() as session:
        for each in seen:
            if each.startswith(("SELECT", "UPDATE")):
                unbound = ("x",) * each.count("?")
                rows = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {each}", unbound).all()
                plans.append([row[3] for row in rows])
    steps = [step for plan in plans for step in plan]
    assert len(plans) == 4
    assert not [step for step in steps if step.startswith("SCAN")], steps
    assert any("ix_delivery_destination_due_at (destination=? AND due_at<?)" in step for step in plans[0]), plans[0]


STATES = [JobState.QUEUED, JobState.QUEUED, JobState.HELD, JobState.NOT_SCORED]

OUTCOMES = ["mark_sent", "mark_verified", "retry", "check_again", "give_up", "requeue"]

# What each event may say: from which state to which.
RECEIPT = {(None, "queued"), (None, "held"), (None, "not_scored")}
MOVES: dict[str, set[tuple[str | None, str]]] = {
    "received": RECEIPT,
    "changed_resend": RECEIPT,
    "job_claimed": {("queued", "scoring")},
    "job_reported": {("scoring", "reported")},
    "job_retried": {("scoring", "queued")},
    "job_failed": {("scoring", "failed")},
    "job_given_back": {("scoring", "queued")},
    "job_lease_expired": {("scoring", "queued")},
    "job_set_aside": {("scoring", "held"), ("scoring", "not_scored")},
    "job_released": {("held", "queued")},
    "job_requeued": {("failed", "queued")},
    "job_discarded": {("held", "not_scored"), ("failed", "not_scored")},
    "delivery_created": {(None, "pending")},
    "delivery_sent": {("pending", "sent")},
    "delivery_verified": {("sent", "verified")},
    "delivery_postponed": {("pending", "pending"), ("sent", "sent"), ("sent", "pending")},
    "delivery_dead": {("pending", "dead"), ("sent", "dead")},
    "delivery_requeued": {("dead", "pending")},
}


class Life(RuleBasedStateMachine):
    """Whatever happens in whatever order: the events alone give the state of every row."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        root = Path(self.folder.name)
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.database = open_database(root / "data" / "audit.sqlite", root / "audit.key", create=True, now=self.now)
        self.files = 0

    @initialize()
    def begin_with_work(self) -> None:
        """Three images, one of them scored, so that there is something to do from the first step."""
        for seed in (1, 2, 3):
            self.receive(seed, 0, JobState.QUEUED)
        self.claim_jobs("w1", 3)
        self.finish(1, 2)

    def teardown(self) -> None:
        self.database.dispose()
        self.folder.cleanup()

    def _in_hand(self, pick: int) -> tuple[int, str]:
        """Most often a job that a worker holds, now and then one that it does not."""
        with self.database.read() as session:
            held = session.execute(select(Job.id, Job.worker_id).where(Job.state == JobState.SCORING)).all()
        return tuple(held[pick % len(held)]) if held and pick else (1 + pick % 4, "w1")

    def _file(self) -> str:
        self.files += 1
        return f"file{self.files}"

    @rule(seed=st.integers(1, 4), change=st.integers(0, 2), state=st.sampled_from(STATES))
    def receive(self, seed: int, change: int, state: JobState) -> None:
        receipt = Receipt(
            header=ImageHeader(sop_class_uid="1.2", sop_instance_uid=f"1.2.{seed}", identity_digest="i"),
            decision=ViewDecision(view=View.FRONTAL, is_chest=True, reason="frontal"),
            initial_state=state,
            reason="frontal",
            peer_ae_title="PEER",
            transfer_syntax_uid="1.2",
            size_bytes=1,
            dataset_digest=f"d{change}",
            pixel_digest=f"p{change}",
            spool_name=self._file(),
            received_at=self.now,
        )
        with self.database.begin() as session:
            images.receive(session, receipt, now=self.now)

    @rule(worker=st.sampled_from(["w1", "w2"]), limit=st.integers(1, 3))
    def claim_jobs(self, worker: str, limit: int) -> None:
        with self.database.begin() as session:
            jobs.claim(session, worker_id=worker, limit=limit, now=self.now, lease_s=60)

    @rule(pick=st.integers(0, 9), uid=st.integers(1, 3))
    def finish(self, pick: int, uid: int) -> None:
        job_id, worker = self._in_hand(pick)
        report = ReportRecord(
            kind="sr",
            sop_class_uid="1.2",
            sop_instance_uid=f"2.25.{uid}",
            series_instance_uid="2.25.9",
            spool_name=self._file(),
            content_digest="c",
            created_at=self.now,
        )
        scored = ScoredImage(
            scores=(Score(finding="covid19", score=1 / (job_id + 2)),),
            model_name="m",
            model_version="1",
            fingerprint="ab" * 32,
            status=PackageStatus.UNTRAINED,
            scored_at=self.now,
            device="cpu",
        )
        self._try(
            jobs.finish,
            job_id,
            worker_id=worker,
            scored=scored,
            reports=[report],
            destinations=["a", "b"][:uid],
            now=self.now,
        )

    @rule(pick=st.integers(0, 9), retryable=st.booleans())
    def fail(self, pick: int, retryable: bool) -> None:
        job_id, worker = self._in_hand(pick)
        self._try(
            jobs.fail,
            job_id,
            worker_id=worker,
            code="decoder_crashed",
            retryable=retryable,
            max_attempts=2,
            retry_s=30,
            now=self.now,
        )

    @rule(pick=st.integers(0, 9), to=st.sampled_from([JobState.HELD, JobState.NOT_SCORED]))
    def set_aside(self, pick: int, to: JobState) -> None:
        job_id, worker = self._in_hand(pick)
        facts = {"seen_lateral": 0.9}
        self._try(jobs.set_aside, job_id, worker_id=worker, to=to, reason="pixels_lateral", facts=facts, now=self.now)

    @rule(job_id=st.integers(1, 6), order=st.sampled_from([jobs.release, jobs.requeue]))
    def order(self, job_id: int, order: Callable[..., None]) -> None:
        self._try(order, job_id, self.now)

    @rule(job_id=st.integers(1, 6))
    def discard(self, job_id: int) -> None:
        self._try(jobs.discard, job_id, reason="purged", now=self.now)

    @rule(worker=st.sampled_from(["w1", "w2"]))
    def stop(self, worker: str) -> None:
        with self.database.begin() as session:
            jobs.give_back(session, worker_id=worker, now=self.now)

    @rule(minutes=st.integers(1, 3))
    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule()
    def sweep(self) -> None:
        with self.database.begin() as session:
            jobs.release_expired(session, retry_s=30, now=self.now)

    @rule(destination=st.sampled_from(["a", "b"]), sender=st.sampled_from(["s1", "s2"]))
    def claim_deliveries(self, destination: str, sender: str) -> None:
        with self.database.begin() as session:
            deliveries.claim(session, destination=destination, sender_id=sender, limit=2, now=self.now, lease_s=60)

    @rule(delivery_id=st.integers(1, 2))
    def deliver(self, delivery_id: int) -> None:
        """Send it if it is pending, verify it if it was sent, requeue it if it is dead."""
        with self.database.read() as session:
            state = session.scalar(select(Delivery.state).where(Delivery.id == delivery_id))
        outcomes = {
            DeliveryState.PENDING: "mark_sent",
            DeliveryState.SENT: "mark_verified",
            DeliveryState.DEAD: "requeue",
        }
        self.conclude(delivery_id, outcomes.get(state, "mark_sent"))  # type: ignore[arg-type]

    @rule(delivery_id=st.integers(1, 4), outcome=st.sampled_from(OUTCOMES))
    def conclude(self, delivery_id: int, outcome: str) -> None:
        failure = {"code": "peer_busy", "status": 0xA700, "now": self.now}
        given: dict[str, dict[str, Any]] = {
            "mark_sent": {"status": 0, "verify_at": self.now, "now": self.now, **UIDS},
            "mark_verified": {"verified_by": "find", "now": self.now},
            "retry": failure | {"not_before": self.now},
            "check_again": {"check_at": None, "now": self.now},
            "give_up": failure,
            "requeue": {"now": self.now},
        }
        self._try(getattr(deliveries, outcome), delivery_id, **given[outcome])

    def _try(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Call in a transaction; what is refused leaves nothing behind."""
        try:
            with self.database.begin() as session:
                function(session, *arguments, **named)
        except StorageError:
            pass

    @invariant()
    def events_give_the_state(self) -> None:
        with self.database.read() as session:
            assert verify_chain(session).ok
            assert differing_rows(session) == []

    @invariant()
    def every_event_is_a_legal_move(self) -> None:
        state = text("json_extract(facts, '$.state')")
        with self.database.read() as session:
            columns = select(Event.kind, Event.job_id, Event.delivery_id, state)
            rows = session.execute(columns.where(text("json_extract(facts, '$.state') IS NOT NULL"))).all()
        last: dict[tuple[int, int | None], str] = {}
        for kind, job_id, delivery_id, after in rows:
            row = (0, delivery_id) if delivery_id else (1, job_id)
            assert (last.get(row), after) in MOVES[kind], (kind, last.get(row), after)
            last[row] = after

    @invariant()
    def a_lease_belongs_to_work_in_hand(self) -> None:
        with self.database.read() as session:
            for state, worker, lease in session.execute(select(Job.state, Job.worker_id, Job.lease_until)):
                assert ((worker is None), (lease is None)) == ((state is not JobState.SCORING),) * 2
            uids = session.scalars(select(Report.sop_instance_uid)).all()
            assert len(uids) == len(set(uids))


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=20,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink takes minutes, and says little more
)
