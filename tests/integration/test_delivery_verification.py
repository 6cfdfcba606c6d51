"""Whether a destination has what it took: Storage Commitment, C-FIND, and peers that say no."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from cxr.domain import DeliveryState
from cxr.errors import AccessRefused
from inference.delivery.association import Address, close, context, open_association
from inference.delivery.commitment_scu import CommitmentInbox, request_commitment

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
COMMITMENT = str(StorageCommitmentPushModel)


def after(**delta: float) -> datetime:
    return NOON + timedelta(**delta)


def deliver_and_check(outbox: Any, sender: Any, *, checks: int = 1) -> Any:
    """Send at noon, then look as often as asked, each time when it is due."""
    sender.deliver_due(NOON)
    for _ in range(checks):
        due_at = outbox.row().due_at
        if due_at is None:
            break
        sender.deliver_due(due_at)
    return outbox.row()


@pytest.mark.parametrize("verify", ["auto", "find"])
def test_orthanc_by_c_find(verify: str, outbox: Any, orthanc: Any, sender_to: Any) -> None:
    outbox.add()
    row = deliver_and_check(outbox, sender_to(orthanc.address, verify=verify))
    assert (row.state, row.verified_by) == (DeliveryState.VERIFIED, "c_find")


@pytest.mark.parametrize("verify", ["auto", "commitment"])
def test_orthanc_by_storage_commitment_on_an_association_of_its_own(
    verify: str, outbox: Any, orthanc_factory: Any, sender_to: Any, free_port: Callable[[], int]
) -> None:
    port = free_port()
    orthanc = orthanc_factory(DicomModalities={"cxr": ["CXR", "127.0.0.1", port]})
    outbox.add(0)
    sender = sender_to(orthanc.address, verify=verify, commitment_listen=f"127.0.0.1:{port}", timeout_s=20.0)
    row = deliver_and_check(outbox, sender)
    assert (row.state, row.verified_by) == (DeliveryState.VERIFIED, "storage_commitment")


def test_orthanc_that_does_not_know_our_title_refuses_the_commitment(
    outbox: Any, orthanc: Any, sender_to: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="inference.delivery")
    outbox.add()
    row = deliver_and_check(outbox, sender_to(orthanc.address, verify="commitment", timeout_s=20.0))
    assert row.state is DeliveryState.SENT
    told = [record.getMessage() for record in caplog.records if "delivery_not_verified" in record.getMessage()]
    assert len(told) == 1 and "access_refused" in told[0]


@pytest.mark.parametrize(("status", "error"), [(0x0124, AccessRefused), (0x0122, None), (0x0110, None), (0x0211, None)])
def test_a_status_that_refuses_us_is_told_from_one_that_refuses_commitment(
    status: int, error: type[Exception] | None, peer_factory: Any, outbox: Any
) -> None:
    peer = peer_factory(also=(COMMITMENT,), handlers=((evt.EVT_N_ACTION, lambda event: (status, None)),))
    host, port = peer.address.partition("@")[2].split(":")
    address = Address(ae_title="PEER", host=host, port=int(port), calling_ae_title="CXR", timeout_s=20.0)
    association = open_association(address, [context(COMMITMENT, [str(ImplicitVRLittleEndian)])])
    try:
        if error is None:
            assert request_commitment(association, [], CommitmentInbox()) is False
        else:
            with pytest.raises(error):
                request_commitment(association, [], CommitmentInbox())
    finally:
        close(association)


def test_orthanc_that_lost_the_object_gets_it_again(
    outbox: Any, orthanc_factory: Any, sender_to: Any, free_port: Callable[[], int]
) -> None:
    port = free_port()
    orthanc = orthanc_factory(DicomModalities={"cxr": ["CXR", "127.0.0.1", port]})
    outbox.add()
    sender = sender_to(orthanc.address, verify="commitment", commitment_listen=f"127.0.0.1:{port}", timeout_s=20.0)
    sender.deliver_due(NOON)
    (instance,) = orthanc.find("Instance")
    _delete(orthanc, f"/instances/{instance['ID']}")
    states = []
    for _ in range(9):
        sender.deliver_due(outbox.row().due_at)
        states.append((outbox.row().state, outbox.row().error_code))
        if outbox.row().state is DeliveryState.VERIFIED:
            break
    # Looked for six times, sent once more, and then found.
    assert states == [
        *[(DeliveryState.SENT, None)] * 5,
        (DeliveryState.PENDING, "not_verified"),
        (DeliveryState.SENT, None),
        (DeliveryState.VERIFIED, None),
    ]
    assert orthanc.get("/statistics")["CountInstances"] == 1


def _delete(orthanc: Any, path: str) -> None:
    import urllib.request

    urllib.request.urlopen(urllib.request.Request(orthanc.url + path, method="DELETE"), timeout=60).close()


def test_peer_that_never_has_it_is_dead_in_the_end(outbox: Any, peer_factory: Any, sender_to: Any) -> None:
    def nothing(event: Any) -> Iterator[tuple[int, None]]:
        yield from ()

    outbox.add()
    peer = peer_factory(also=(FIND,), handlers=((evt.EVT_C_FIND, nothing),))
    sender = sender_to(peer.address, verify="find")
    sender.deliver_due(NOON)
    for _ in range(100):
        if outbox.row().due_at is None:
            break
        sender.deliver_due(outbox.row().due_at)
    row = outbox.row()
    assert (row.state, row.error_code) == (DeliveryState.DEAD, "not_verified")
    assert len(peer.received) == 3  # sent, and twice more: a peer that renames objects gains no more copies


def test_nothing_is_remembered_of_a_delivery_that_is_verified(outbox: Any, peer_factory: Any, sender_to: Any) -> None:
    """How often it was looked for and sent again is kept in memory, for as long as it is under way."""
    answers: list[Dataset] = []

    def find(event: Any) -> Iterator[tuple[int, Dataset]]:
        yield from ((0xFF00, answer) for answer in answers)

    outbox.add()
    peer = peer_factory(also=(FIND,), handlers=((evt.EVT_C_FIND, find),))
    sender = sender_to(peer.address, verify="find")
    sender.deliver_due(NOON)
    while len(peer.received) < 2:
        sender.deliver_due(outbox.row().due_at)
    answers.append(peer.received[0])
    sender.deliver_due(outbox.row().due_at)
    assert outbox.row().state is DeliveryState.VERIFIED
    assert (sender._outcomes._checks, sender._outcomes._resends) == ({}, {})


def test_fallback_object_is_looked_for_under_its_own_uids(outbox: Any, peer_factory: Any, sender_to: Any) -> None:
    asked: list[Dataset] = []

    def find(event: Any) -> Iterator[tuple[int, Dataset]]:
        asked.append(event.identifier)
        yield 0xFF00, event.identifier

    outbox.add()
    peer = peer_factory(accepts=("1.2.840.10008.5.1.4.1.1.88.33",), also=(FIND,), handlers=((evt.EVT_C_FIND, find),))
    row = deliver_and_check(outbox, sender_to(peer.address, verify="find"))
    assert row.state is DeliveryState.VERIFIED
    (sent,), (query,) = peer.received, asked
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert query[keyword].value == sent[keyword].value


def test_peer_that_can_not_be_asked_stays_sent(outbox: Any, peer_factory: Any, sender_to: Any) -> None:
    outbox.add()
    row = deliver_and_check(outbox, sender_to(peer_factory().address, verify="auto"))
    assert (row.state, row.due_at, row.verified_by) == (DeliveryState.SENT, None, None)


def test_peer_that_can_not_be_asked_is_asked_again_where_the_settings_insist(
    outbox: Any, peer_factory: Any, sender_to: Any
) -> None:
    outbox.add()
    row = deliver_and_check(outbox, sender_to(peer_factory().address, verify="find"))
    assert (row.state, row.due_at) == (DeliveryState.SENT, after(seconds=12))


@pytest.mark.parametrize(("status", "due"), [(0xA700, 12.0), (0xC000, None)])
def test_refused_query(status: int, due: float | None, outbox: Any, peer_factory: Any, sender_to: Any) -> None:
    def refuse(event: Any) -> Iterator[tuple[int, None]]:
        yield status, None

    outbox.add()
    peer = peer_factory(also=(FIND,), handlers=((evt.EVT_C_FIND, refuse),))
    row = deliver_and_check(outbox, sender_to(peer.address, verify="auto"))
    assert (row.state, row.due_at) == (DeliveryState.SENT, None if due is None else after(seconds=due))


def test_peer_that_is_down_when_asked_is_asked_again(
    outbox: Any, peer_factory: Any, sender_to: Any, free_port: Callable[[], int]
) -> None:
    outbox.add()
    sender = sender_to(peer_factory().address, verify="find")
    sender.deliver_due(NOON)
    verifier = sender._client._verifier
    verifier._address = type(verifier._address)(
        ae_title="PEER", host="127.0.0.1", port=free_port(), calling_ae_title="CXR", timeout_s=1.0
    )
    sender.deliver_due(after(seconds=2))
    assert (outbox.row().state, outbox.row().due_at) == (DeliveryState.SENT, after(seconds=12))


class Committing:
    """The commitment half of a peer: takes requests, and reports when and where it is told to."""

    def __init__(self, *, failed: int | None = None, where: str = "same", listen_port: int = 0) -> None:
        self.failed = failed
        self.where = where
        self.listen_port = listen_port
        self.requests: list[Dataset] = []

    @property
    def handlers(self) -> tuple[Any, ...]:
        return ((evt.EVT_N_ACTION, self.on_action), (evt.EVT_DIMSE_SENT, self.on_sent))

    def on_action(self, event: Any) -> tuple[int, None]:
        self.requests.append(event.action_information)
        return 0x0000, None

    def on_sent(self, event: Any) -> None:
        if type(event.message).__name__ != "N_ACTION_RSP" or self.where == "nowhere":
            return
        # After the response is out, as a PACS does it.
        threading.Timer(0.2, self.report, args=(event.assoc,)).start()

    def report(self, association: Any) -> None:
        if self.where == "same":
            self.send_report(association)
            return
        entity = AE(ae_title="PEER")
        entity.add_requested_context(StorageCommitmentPushModel)
        opened = entity.associate(
            "127.0.0.1",
            self.listen_port,
            ae_title="CXR",
            ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)],
        )
        assert opened.is_established
        self.send_report(opened)
        opened.release()

    def send_report(self, association: Any) -> None:
        request = self.requests[-1]
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        items = list(request.ReferencedSOPSequence)
        if self.failed is None:
            report.ReferencedSOPSequence = Sequence(items)
        else:
            for item in items:
                item.FailureReason = self.failed
            report.FailedSOPSequence = Sequence(items)
        association.send_n_event_report(
            report, 1 if self.failed is None else 2, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )


def test_report_on_the_same_association(outbox: Any, peer_factory: Any, sender_to: Any) -> None:
    outbox.add()
    committing = Committing()
    peer = peer_factory(also=(COMMITMENT,), handlers=committing.handlers)
    row = deliver_and_check(outbox, sender_to(peer.address, verify="commitment"))
    assert (row.state, row.verified_by) == (DeliveryState.VERIFIED, "storage_commitment")
    (item,) = committing.requests[0].ReferencedSOPSequence
    assert (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) == (
        peer.received[0].SOPClassUID,
        peer.received[0].SOPInstanceUID,
    )


def test_release_that_meets_the_end_of_a_report_ends(peer_factory: Any, wait_for: Any) -> None:
    """A thread of pynetdicom's takes the report; what it leaves behind must not hold up whoever waits for a pause."""
    committing, entered, may_end = Committing(), threading.Event(), threading.Event()
    serving: list[threading.Thread] = []

    def on_event_report(event: Any) -> tuple[int, None]:
        serving.append(threading.current_thread())
        entered.set()
        may_end.wait(120)
        return 0x0000, None

    peer = peer_factory(also=(COMMITMENT,), handlers=committing.handlers)
    association = open_association(
        Address(ae_title="PEER", host="127.0.0.1", port=peer.port, calling_ae_title="CXR", timeout_s=10.0),
        [context(COMMITMENT, [ImplicitVRLittleEndian])],
        [(evt.EVT_N_EVENT_REPORT, on_event_report)],
    )
    request = Dataset()
    request.TransactionUID, request.ReferencedSOPSequence = "1.2.3", Sequence()
    association.send_n_action(request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    assert entered.wait(120)
    association._reactor_checkpoint.clear()  # as release() does first
    wait_for(lambda: association._is_paused, "the association's thread waits")
    may_end.set()
    serving[0].join(120)
    try:
        assert association._is_paused
    finally:
        association._reactor_checkpoint.set()
    close(association)
    assert association.is_released


def test_report_on_an_association_of_the_peer(
    outbox: Any, peer_factory: Any, sender_to: Any, free_port: Callable[[], int]
) -> None:
    outbox.add()
    port = free_port()
    committing = Committing(where="own", listen_port=port)
    peer = peer_factory(also=(COMMITMENT,), handlers=committing.handlers)
    sender = sender_to(peer.address, verify="commitment", commitment_listen=f"127.0.0.1:{port}")
    row = deliver_and_check(outbox, sender)
    assert (row.state, row.verified_by) == (DeliveryState.VERIFIED, "storage_commitment")


def test_late_report_counts_at_the_next_look(
    outbox: Any, peer_factory: Any, sender_to: Any, free_port: Callable[[], int], wait_for: Any
) -> None:
    outbox.add()
    port = free_port()
    committing = Committing(where="nowhere", listen_port=port)
    peer = peer_factory(also=(COMMITMENT,), handlers=committing.handlers)
    sender = sender_to(peer.address, verify="commitment", commitment_listen=f"127.0.0.1:{port}", timeout_s=1.0)
    assert deliver_and_check(outbox, sender).state is DeliveryState.SENT
    committing.where = "own"
    committing.report(None)
    sender.deliver_due(outbox.row().due_at)
    assert outbox.row().state is DeliveryState.VERIFIED
    assert len(committing.requests) == 1


def test_failed_commitment_is_looked_for_again(outbox: Any, peer_factory: Any, sender_to: Any) -> None:
    outbox.add()
    committing = Committing(failed=0x0112)
    peer = peer_factory(also=(COMMITMENT,), handlers=committing.handlers)
    sender = sender_to(peer.address, verify="commitment")
    row = deliver_and_check(outbox, sender, checks=6)
    assert (row.state, row.error_code) == (DeliveryState.PENDING, "not_verified")


def test_silent_commitment_falls_back_to_c_find_and_is_not_waited_for_again(
    outbox: Any, peer_factory: Any, sender_to: Any
) -> None:
    def find(event: Any) -> Iterator[tuple[int, Dataset]]:
        yield 0xFF00, event.identifier

    outbox.add(0)
    committing = Committing(where="nowhere")
    peer = peer_factory(also=(COMMITMENT, FIND), handlers=(*committing.handlers, (evt.EVT_C_FIND, find)))
    sender = sender_to(peer.address, verify="auto", timeout_s=1.0)
    deliver_and_check(outbox, sender)
    outbox.add(1)
    sender.deliver_due(after(seconds=10))
    sender.deliver_due(after(seconds=20))
    assert [(row.state, row.verified_by) for row in outbox.rows()] == [(DeliveryState.VERIFIED, "c_find")] * 2
    assert len(committing.requests) == 1


def test_report_of_a_stranger_counts_for_nothing(
    outbox: Any, peer_factory: Any, sender_to: Any, free_port: Callable[[], int]
) -> None:
    outbox.add()
    port = free_port()
    committing = Committing(where="nowhere", listen_port=port)
    peer = peer_factory(also=(COMMITMENT,), handlers=committing.handlers)
    sender = sender_to(peer.address, verify="commitment", commitment_listen=f"127.0.0.1:{port}", timeout_s=1.0)
    deliver_and_check(outbox, sender)
    committing.requests[-1].TransactionUID = "2.25.1"
    committing.where = "own"
    committing.report(None)
    committing.where = "nowhere"
    sender.deliver_due(outbox.row().due_at)
    assert outbox.row().state is DeliveryState.SENT


def test_slow_answer_to_a_commitment_holds_up_no_report(outbox: Any, peer_factory: Any, sender_to: Any) -> None:
    asked, release = threading.Event(), threading.Event()

    def hang(event: Any) -> tuple[int, None]:
        asked.set()
        release.wait(240)
        return 0x0110, None

    outbox.add(0)
    peer = peer_factory(also=(COMMITMENT,), handlers=((evt.EVT_N_ACTION, hang),))
    sender = sender_to(peer.address, verify="commitment", timeout_s=60.0)
    assert sender.send_due(NOON) == 1
    verifying = threading.Thread(target=sender.verify_due, args=(outbox.row().due_at,))
    verifying.start()
    try:
        assert asked.wait(120)
        outbox.add(1)
        assert sender.send_due(after(seconds=10)) == 1
        assert [row.state for row in outbox.rows()] == [DeliveryState.SENT] * 2
    finally:
        release.set()
        verifying.join(120)
