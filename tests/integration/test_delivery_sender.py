"""Deliveries from the database to real peers: the state, the code and the next time after each kind of answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from config.settings import DeliverySettings
from cxr.domain import DeliveryState
from inference.delivery.backoff import FEWEST_FAILURES

SR_COMPREHENSIVE = "1.2.840.10008.5.1.4.1.1.88.33"


def after(**delta: float) -> datetime:
    from datetime import UTC

    return datetime(2026, 3, 2, 12, 0, tzinfo=UTC) + timedelta(**delta)


NOON = after()


def outcome(outbox: Any) -> tuple[DeliveryState, str | None, int | None, datetime | None]:
    row = outbox.row()
    return row.state, row.error_code, row.status, row.due_at


def test_delivered_once_and_not_again(outbox: Any, sender_to: Any, peer_factory: Any) -> None:
    outbox.add()
    peer = peer_factory()
    sender = sender_to(peer.address)
    assert sender.deliver_due(NOON) == 1
    assert outcome(outbox) == (DeliveryState.SENT, None, 0x0000, None)
    assert sender.deliver_due(after(days=1)) == 0
    assert len(peer.received) == 1


def test_full_peer_is_tried_again_after_the_first_wait(outbox: Any, sender_to: Any, peer_factory: Any) -> None:
    outbox.add()
    sender = sender_to(peer_factory(answers=(0xA700, 0x0000)).address)
    sender.deliver_due(NOON)
    assert outcome(outbox) == (DeliveryState.PENDING, "peer_busy", 0xA700, after(seconds=10))
    assert sender.deliver_due(after(seconds=9.9)) == 0
    sender.deliver_due(after(seconds=10))
    assert outcome(outbox) == (DeliveryState.SENT, None, 0x0000, None)


def test_warning_counts_as_sent(outbox: Any, sender_to: Any, peer_factory: Any) -> None:
    outbox.add()
    sender_to(peer_factory(answers=(0xB000,)).address).deliver_due(NOON)
    assert outcome(outbox) == (DeliveryState.SENT, None, 0xB000, None)


@pytest.mark.parametrize("status", [0xA900, 0xC123, 0x0122, 0x0124])
def test_permanent_status_is_dead_at_once(status: int, outbox: Any, sender_to: Any, peer_factory: Any) -> None:
    outbox.add()
    peer = peer_factory(answers=(status,))
    sender = sender_to(peer.address)
    sender.deliver_due(NOON)
    assert outcome(outbox) == (DeliveryState.DEAD, "peer_refused", status, None)
    assert sender.deliver_due(after(days=8)) == 0
    assert len(peer.received) == 1


def test_dead_delivery_is_requeued_with_all_its_time(outbox: Any, sender_to: Any, peer_factory: Any) -> None:
    outbox.add()
    sender = sender_to(peer_factory(answers=(0xA900, 0xA700, 0x0000)).address)
    sender.deliver_due(NOON)
    much_later = after(days=30)
    outbox.requeue(much_later)
    sender.deliver_due(much_later)
    # The time to give up counts from the requeueing: a passing fault does not kill it again.
    assert outcome(outbox) == (DeliveryState.PENDING, "peer_busy", 0xA700, much_later + timedelta(seconds=10))
    sender.deliver_due(much_later + timedelta(seconds=10))
    assert outbox.row().state is DeliveryState.SENT


def test_requeued_delivery_outlasts_more_failures_than_are_always_allowed(
    outbox: Any, sender_to: Any, peer_factory: Any
) -> None:
    """The first five failures never kill a delivery; from the sixth on, the time since the requeueing decides."""
    outbox.add()
    sender = sender_to(peer_factory(answers=(0xA900, *[0xA700] * (FEWEST_FAILURES + 2), 0x0000)).address)
    sender.deliver_due(NOON)
    outbox.requeue(after(days=30))
    for _ in range(FEWEST_FAILURES + 2):
        sender.deliver_due(outbox.row().due_at)
        assert outbox.row().state is DeliveryState.PENDING
    sender.deliver_due(outbox.row().due_at)
    assert outbox.row().state is DeliveryState.SENT


def test_abort_in_mid_association_is_tried_again(outbox: Any, sender_to: Any, peer_factory: Any) -> None:
    outbox.add()
    peer = peer_factory(behave=lambda event: event.assoc.abort())
    sender = sender_to(peer.address)
    sender.deliver_due(NOON)
    assert outcome(outbox) == (DeliveryState.PENDING, "peer_unreachable", None, after(seconds=10))
    peer.behave = None
    sender.deliver_due(after(seconds=10))
    assert outbox.row().state is DeliveryState.SENT


def test_peer_that_never_answers_is_tried_again(outbox: Any, sender_to: Any) -> None:
    outbox.add()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sender_to(f"PEER@127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.5).deliver_due(NOON)
    assert outcome(outbox) == (DeliveryState.PENDING, "peer_unreachable", None, after(seconds=10))


def test_rejected_association_is_tried_again_slowly(outbox: Any, sender_to: Any, peer_factory: Any) -> None:
    def strict(entity: Any) -> None:
        entity.require_calling_aet = ["SOMEBODY"]

    outbox.add()
    sender_to(peer_factory(configure=strict).address).deliver_due(NOON)
    assert outcome(outbox) == (DeliveryState.PENDING, "access_refused", None, after(minutes=5))


def test_peer_without_any_sr_class_is_dead_with_that_code(outbox: Any, sender_to: Any, peer_factory: Any) -> None:
    outbox.add()
    sender_to(peer_factory(accepts=("1.2.840.10008.5.1.4.1.1.7",)).address).deliver_due(NOON)
    assert outcome(outbox) == (DeliveryState.DEAD, "presentation_context_rejected", None, None)


def test_fallback_object_is_recorded_with_its_own_uid(outbox: Any, sender_to: Any, peer_factory: Any) -> None:
    outbox.add()
    peer = peer_factory(accepts=(SR_COMPREHENSIVE,))
    sender_to(peer.address, verify="find").deliver_due(NOON)
    with outbox.database.begin() as session:
        from db import deliveries

        (claimed,) = deliveries.claim(
            session, destination="pacs", sender_id="test", limit=9, now=after(hours=1), lease_s=1
        )
    assert claimed.delivered_sop_class_uid == SR_COMPREHENSIVE
    assert claimed.delivered_sop_instance_uid == str(peer.received[0].SOPInstanceUID)
    assert claimed.delivered_sop_instance_uid != claimed.sop_instance_uid


def test_waits_double_up_to_the_longest_and_end_after_days(
    outbox: Any, sender_to: Any, free_port: Callable[[], int]
) -> None:
    outbox.add()
    sender = sender_to(f"PEER@127.0.0.1:{free_port()}", delivery=DeliverySettings(give_up_after_h=4))
    waits, now = [], NOON
    for _ in range(100):
        sender.deliver_due(now)
        row = outbox.row()
        if row.state is DeliveryState.DEAD:
            break
        waits.append((row.due_at - now).total_seconds())
        now = row.due_at
    assert waits[:10] == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600]
    assert max(waits) == 3600
    assert now == after(hours=4)  # the last try is made at the limit, not before
    assert outbox.row().error_code == "peer_unreachable"


def test_jitter_takes_up_to_half_of_the_wait(outbox: Any, sender_to: Any, free_port: Callable[[], int]) -> None:
    outbox.add()
    sender_to(f"PEER@127.0.0.1:{free_port()}", draw=0.999).deliver_due(NOON)
    assert after(seconds=5) < outbox.row().due_at < after(seconds=5.1)


def test_missing_report_is_dead(outbox: Any, sender_to: Any, peer_factory: Any) -> None:
    outbox.add()
    for name in list(outbox.spool.names()):
        outbox.spool.remove(name)
    sender_to(peer_factory().address).deliver_due(NOON)
    assert outcome(outbox) == (DeliveryState.DEAD, "report_unreadable", None, None)


def test_one_bad_report_does_not_hold_up_the_others(outbox: Any, sender_to: Any, peer_factory: Any) -> None:
    outbox.add(0)
    outbox.add(1)
    outbox.add(2)

    def refuse_first(event: Any) -> int | None:
        return 0xC000 if event.dataset.AccessionNumber == "ACC0" else None

    peer = peer_factory(behave=refuse_first)
    sender_to(peer.address).deliver_due(NOON)
    assert [row.state for row in outbox.rows()] == [DeliveryState.DEAD, DeliveryState.SENT, DeliveryState.SENT]
    assert peer.associations == 1


def test_report_that_makes_the_peer_abort_does_not_hold_up_the_others(
    outbox: Any, sender_to: Any, peer_factory: Any
) -> None:
    outbox.add(0)
    outbox.add(1)

    def abort_first(event: Any) -> None:
        if event.dataset.AccessionNumber == "ACC0":
            event.assoc.abort()

    sender_to(peer_factory(behave=abort_first).address, timeout_s=2.0).deliver_due(NOON)
    assert [row.state for row in outbox.rows()] == [DeliveryState.PENDING, DeliveryState.SENT]


def test_library_that_fails_over_one_report_is_a_postponed_delivery(
    outbox: Any, sender_to: Any, peer_factory: Any
) -> None:
    """Stands for what nobody foresaw: whatever a library raises, the reports behind this one go out."""
    outbox.add(0)
    outbox.add(1)
    sender = sender_to(peer_factory().address)
    store = sender._client.store

    def trip(outgoing: Any) -> Any:
        if outgoing.report_id == outbox.rows()[0].report_id:
            raise ZeroDivisionError
        return store(outgoing)

    sender._client.store = trip
    sender.deliver_due(NOON)
    first, second = outbox.rows()
    assert (first.state, first.error_code) == (DeliveryState.PENDING, "delivery_crashed")
    assert second.state is DeliveryState.SENT


def test_destination_that_is_down_is_not_asked_for_every_report(outbox: Any, sender_to: Any, wait_for: Any) -> None:
    for number in range(6):
        outbox.add(number)
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def count() -> None:
            while True:
                try:
                    connection, _ = silent.accept()
                except OSError:
                    return
                connections.append(connection)
                connection.close()

        threading.Thread(target=count, daemon=True).start()
        sender = sender_to(f"PEER@127.0.0.1:{silent.getsockname()[1]}", timeout_s=1.0)
        assert sender.deliver_due(NOON) == 6
        silent.shutdown(socket.SHUT_RDWR)
    assert len(connections) == 2
    assert {(row.state, row.error_code, row.due_at) for row in outbox.rows()} == {
        (DeliveryState.PENDING, "peer_unreachable", after(seconds=10))
    }


def test_destination_that_hangs_holds_up_no_other(
    outbox: Any, sender_to: Any, peer_factory: Any, wait_for: Any
) -> None:
    outbox.add(destinations=("hanging", "pacs"))
    release = threading.Event()
    hanging = peer_factory(behave=lambda event: release.wait(60) and None)
    senders = [
        sender_to(hanging.address, name="hanging", timeout_s=60.0),
        sender_to(peer_factory().address, timeout_s=60.0),
    ]
    threads = [threading.Thread(target=sender.deliver_due, args=(NOON,)) for sender in senders]
    try:
        for thread in threads:
            thread.start()
        wait_for(lambda: hanging.received, "the hanging destination has its request")
        wait_for(lambda: outbox.rows("pacs")[0].state is DeliveryState.SENT, "the other destination has the report")
        assert outbox.rows("hanging")[0].state is DeliveryState.PENDING
    finally:
        release.set()
        for thread in threads:
            thread.join(60)
    assert outbox.rows("hanging")[0].state is DeliveryState.SENT


def test_a_bad_day_of_a_pacs_ends_in_one_object(
    outbox: Any, sender_to: Any, peer_factory: Any, free_port: Callable[[], int]
) -> None:
    """Down, cut off in mid-association, full, busy, at last taken with a warning; each wait longer than the last."""
    outbox.add()
    port = free_port()
    sender = sender_to(f"PEER@127.0.0.1:{port}")
    now, seen = NOON, []

    def deliver() -> None:
        nonlocal now
        sender.deliver_due(now)
        row = outbox.row()
        seen.append((row.state, row.error_code, row.status, row.due_at and (row.due_at - now).total_seconds()))
        now = row.due_at or now

    deliver()
    peer = peer_factory(port=port, answers=(0xA700, 0xA700, 0xA701, 0xB000))  # the first one is cut off
    peer.behave = lambda event: event.assoc.abort()
    deliver()
    peer.behave = None
    for _ in range(3):
        deliver()
    pending = DeliveryState.PENDING
    assert seen == [
        (pending, "peer_unreachable", None, 10),
        (pending, "peer_unreachable", None, 20),
        (pending, "peer_busy", 0xA700, 40),
        (pending, "peer_busy", 0xA701, 80),
        (DeliveryState.SENT, None, 0xB000, None),
    ]
    assert sender.deliver_due(after(days=1)) == 0
    assert len({str(report.SOPInstanceUID) for report in peer.received}) == 1


def test_killed_after_sending_the_peer_ends_up_with_one_object(outbox: Any, orthanc: Any, sender_to: Any) -> None:
    """The row was not updated: the lease runs out, and another sender sends the same bytes again."""
    outbox.add()
    first = sender_to(orthanc.address)
    first._outcomes.record_sent = lambda *_: None
    first.deliver_due(NOON)
    assert outbox.row().state is DeliveryState.PENDING
    second = sender_to(orthanc.address)
    assert second.deliver_due(after(seconds=60)) == 0  # the first may still be at it
    assert second.deliver_due(after(seconds=121)) == 1
    assert outbox.row().state is DeliveryState.SENT
    assert orthanc.get("/statistics")["CountInstances"] == 1


def test_sender_that_lost_its_lease_writes_nothing(outbox: Any, sender_to: Any, peer_factory: Any) -> None:
    """While a slow sender waits for its answer, a quick one takes over and is through; the slow one is refused."""
    outbox.add()
    peer = peer_factory()
    slow, quick = sender_to(peer.address), sender_to(peer.address)

    def overtake(event: Any) -> int:
        if len(peer.received) > 1:
            return 0x0000
        quick.deliver_due(after(minutes=10))
        return 0xA700

    peer.behave = overtake
    slow.deliver_due(NOON)
    assert len(peer.received) == 2
    row = outbox.row()
    assert (row.state, row.attempts, row.error_code) == (DeliveryState.SENT, 1, None)


def test_orthanc_down_then_up_gets_it_once(outbox: Any, orthanc: Any, sender_to: Any) -> None:
    outbox.add()
    sender = sender_to(orthanc.address, verify="auto")
    orthanc.stop()
    sender.deliver_due(NOON)
    sender.deliver_due(after(seconds=10))
    assert outcome(outbox) == (DeliveryState.PENDING, "peer_unreachable", None, after(seconds=30))
    orthanc.start()
    sender.deliver_due(after(seconds=30))
    sender.deliver_due(after(seconds=60))
    assert outbox.row().state is DeliveryState.VERIFIED
    assert orthanc.get("/statistics")["CountInstances"] == 1


def test_events_say_what_happened_and_name_nobody(outbox: Any, sender_to: Any, peer_factory: Any) -> None:
    from sqlalchemy import select

    from db.events import log
    from db.schema.tables import Event

    outbox.add()
    sender = sender_to(peer_factory(answers=(0xA700, 0xA900)).address)
    sender.deliver_due(NOON)
    sender.deliver_due(after(seconds=10))
    with outbox.database.read() as session:
        events = [(event.kind, event.facts) for event in session.scalars(select(Event)) if event.delivery_id]
        assert log.verify_chain(session).ok
    assert [kind for kind, _ in events] == ["delivery_created", "delivery_postponed", "delivery_dead"]
    assert "ACC0" not in str(events) and "2.25." not in str(events)
