"""Receipts: new images, resends, changed resends, also from many threads at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import func, select, text

from cxr.domain import JobState, View, ViewDecision
from cxr.errors import StorageError
from db import images, jobs
from db.engine import Database, Session
from db.schema.records import Receipt
from db.schema.tables import Event, Image, Job

Make = Callable[..., Receipt]


def _kinds(session: Session) -> list[str]:
    return list(session.scalars(select(Event.kind).order_by(Event.id)))[1:]


def _count(session: Session, table: type[Any]) -> int:
    return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_new_image_has_its_row_decision_job_and_event(
    audit_database: Database, make_receipt: Make, noon: datetime
) -> None:
    decision = ViewDecision(view=View.UNKNOWN, is_chest=None, reason="no_view", evidence={"Modality": "CR"})
    receipt = make_receipt(1, decision=decision, initial_state=JobState.HELD, reason="no_view")
    with audit_database.begin() as session:
        received = images.receive(session, receipt, now=noon)
    assert received.outcome == "new"
    with audit_database.read() as session:
        row = session.execute(text("SELECT * FROM results")).mappings().one()
        assert (row["state"], row["view"], row["is_chest"], row["reason"]) == ("held", "unknown", None, "no_view")
        assert (row["patient_id"], row["finding"], row["delivered"], row["is_latest"]) == ("SYN1", None, None, 1)
        assert session.scalar(text("SELECT evidence FROM decisions")) == '{"Modality": "CR"}'
        event = session.scalars(select(Event).order_by(Event.id.desc())).first()
        assert event is not None
        assert (event.kind, event.image_id, event.job_id) == ("received", received.image_id, received.job_id)
        assert "SYN1" not in event.facts
        assert "1.2.3" not in event.facts


def test_the_same_dataset_is_a_resend(audit_database: Database, make_receipt: Make, noon: datetime) -> None:
    with audit_database.begin() as session:
        first = images.receive(session, make_receipt(1), now=noon)
        again = images.receive(session, make_receipt(1, spool_name="other.dcm"), now=noon)
    assert again == replace(first, outcome="resent")
    with audit_database.read() as session:
        assert (_count(session, Image), _count(session, Job)) == (1, 1)
        assert _kinds(session) == ["received", "resent"]
        assert session.scalar(text("SELECT resends FROM images")) == 1


def test_an_element_that_nobody_uses_is_a_resend(audit_database: Database, make_receipt: Make, noon: datetime) -> None:
    with audit_database.begin() as session:
        images.receive(session, make_receipt(1), now=noon)
        again = images.receive(session, make_receipt(1, dataset_digest="c" * 64, spool_name="b"), now=noon)
        facts = session.scalars(select(Event.facts).order_by(Event.id.desc())).first()
    assert again.outcome == "resent"
    assert facts == '{"same_dataset":false}'


OTHER_VIEW = ViewDecision(view=View.NOT_FRONTAL, is_chest=True, reason="lateral")


@pytest.mark.parametrize(
    "change",
    [
        {"pixel_digest": "c" * 64},
        {"pixel_digest": None},
        {"header": {"identity_digest": "c" * 64, "patient_id": "CORRECTED"}},
        {"decision": OTHER_VIEW, "reason": "lateral"},
    ],
    ids=["pixels", "no pixels", "identity", "decision"],
)
def test_changed_content_is_a_job_of_its_own(
    audit_database: Database, make_receipt: Make, noon: datetime, change: dict[str, Any]
) -> None:
    with audit_database.begin() as session:
        first = images.receive(session, make_receipt(1), now=noon)
        changed = make_receipt(1, **({"dataset_digest": "c" * 64, "spool_name": "b"} | change))
        second = images.receive(session, changed, now=noon)
        third = images.receive(session, changed, now=noon)
    assert second.outcome == "changed_resend"
    assert second.image_id != first.image_id
    assert second.job_id != first.job_id
    assert third == replace(second, outcome="resent")
    with audit_database.read() as session:
        assert _kinds(session) == ["received", "changed_resend", "resent"]
        latest = session.execute(text("SELECT image_id, is_latest FROM images ORDER BY image_id")).all()
    assert [tuple(row) for row in latest] == [(first.image_id, 0), (second.image_id, 1)]


def test_back_to_the_first_content_is_a_change_again(
    audit_database: Database, make_receipt: Make, noon: datetime
) -> None:
    other = make_receipt(1, dataset_digest="c" * 64, pixel_digest="d" * 64, spool_name="b")
    with audit_database.begin() as session:
        outcomes = [
            images.receive(session, receipt, now=noon).outcome
            for receipt in (make_receipt(1), other, make_receipt(1, spool_name="c"), make_receipt(2))
        ]
    assert outcomes == ["new", "changed_resend", "changed_resend", "new"]


def test_the_latest_is_what_a_resend_is_compared_with(
    audit_database: Database, make_receipt: Make, noon: datetime
) -> None:
    with audit_database.begin() as session:
        assert images.find_latest(session, "1.2.3.1") is None
        images.receive(session, make_receipt(1), now=noon)
        other = make_receipt(1, dataset_digest="c" * 64, pixel_digest="d" * 64, spool_name="b")
        received = images.receive(session, other, now=noon)
    with audit_database.read() as session:
        known = images.find_latest(session, "1.2.3.1")
    assert known is not None
    assert (known.image_id, known.job_id, known.dataset_digest) == (received.image_id, received.job_id, "c" * 64)


@pytest.mark.parametrize("state", [JobState.HELD, JobState.QUEUED])
def test_an_image_to_be_scored_needs_its_file(
    audit_database: Database, make_receipt: Make, noon: datetime, state: JobState
) -> None:
    with audit_database.begin() as session, pytest.raises(StorageError, match="needs its file"):
        images.receive(session, make_receipt(1, initial_state=state, spool_name=None), now=noon)


def test_an_image_not_to_be_scored_needs_no_file(audit_database: Database, make_receipt: Make, noon: datetime) -> None:
    for seed in (1, 2):  # the absence of a file is no name that could be taken
        receipt = make_receipt(seed, initial_state=JobState.NOT_SCORED, spool_name=None, pixel_digest=None)
        with audit_database.begin() as session:
            assert images.receive(session, receipt, now=noon).outcome == "new"


@pytest.mark.parametrize("state", [JobState.SCORING, JobState.REPORTED, JobState.FAILED])
def test_an_image_starts_in_no_other_state(
    audit_database: Database, make_receipt: Make, noon: datetime, state: JobState
) -> None:
    with audit_database.begin() as session, pytest.raises(StorageError, match="can't start as"):
        images.receive(session, make_receipt(1, initial_state=state), now=noon)


def test_the_same_instance_on_eight_associations_at_once(
    audit_database: Database, make_receipt: Make, noon: datetime
) -> None:
    outcomes: list[str] = []
    together = threading.Barrier(8)

    def associate(number: int) -> None:
        together.wait()
        with audit_database.begin() as session:
            received = images.receive(session, make_receipt(1, spool_name=f"file{number}"), now=noon)
        outcomes.append(received.outcome)

    threads = [threading.Thread(target=associate, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(outcomes) == {"new": 1, "resent": 7}
    with audit_database.read() as session:
        assert (_count(session, Image), len(jobs.list_jobs(session))) == (1, 1)
        assert Counter(_kinds(session)) == {"received": 1, "resent": 7}
