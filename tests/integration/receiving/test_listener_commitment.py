"""Storage Commitment for peers that ask: what is kept is said, and nothing else, on either kind of association."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom import AE, build_role, evt
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from config.settings import RetentionSettings
from db.engine import Database
from db.events import AUDIT_KEY
from db.identifiers import Identifiers
from db.privacy import forget
from db.schema.tables import Commitment, CommitmentItem, Custody, Image, Job
from db.upkeep import retention
from inference.delivery.commitment_reports import CommitmentReportSender

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
PUSH_MODEL, PUSH_MODEL_INSTANCE = StorageCommitmentPushModel, StorageCommitmentPushModelInstance
NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0112, 0x0119

Said = tuple[int, str, set[str], dict[str, int]]


@dataclass
class Inbox:
    """What a peer was told: Event Type ID, Transaction UID, what is committed, what is not and why."""

    said: list[Said] = field(default_factory=list)
    came: threading.Event = field(default_factory=threading.Event)
    answer: int = 0x0000
    serving: threading.Thread | None = None

    def on_event_report(self, event: evt.Event) -> tuple[int, None]:
        self.serving = threading.current_thread()
        report = event.event_information
        committed = {item.ReferencedSOPInstanceUID for item in report.get("ReferencedSOPSequence", ())}
        refused = {it.ReferencedSOPInstanceUID: it.FailureReason for it in report.get("FailedSOPSequence", ())}
        self.said.append((event.event_type, report.TransactionUID, committed, refused))
        self.came.set()
        return self.answer, None

    def wait(self) -> Said:
        assert self.came.wait(120), "no report within 120 s"
        self.came.clear()
        if self.serving is not None:
            self.serving.join(120)  # pynetdicom's requestor hangs where a release meets the end of this thread
        return self.said[-1]


def request_of(transaction: str, *uids: str, sop_class: str = CR) -> Dataset:
    request = Dataset()
    request.TransactionUID = transaction
    items = []
    for uid in uids:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        items.append(item)
    request.ReferencedSOPSequence = Sequence(items)
    return request


def without(keyword: str) -> Dataset:
    request = request_of("1.2.3", "1.2.4")
    delattr(request, keyword)
    return request


@contextmanager
def asking(port: int, inbox: Inbox, *, role: bool = False, syntax: str = EXPLICIT) -> Iterator[Any]:
    """An association that stores and asks; with explicit roles or without."""
    entity = AE("PACS")
    for sop_class in (CR, DX):
        entity.add_requested_context(sop_class, EXPLICIT)
    entity.add_requested_context(PUSH_MODEL, syntax)
    roles = [build_role(PUSH_MODEL, scu_role=True)] if role else []
    handlers = [(evt.EVT_N_EVENT_REPORT, inbox.on_event_report)]
    association = entity.associate("127.0.0.1", port, ae_title="CXR", evt_handlers=handlers, ext_neg=roles)
    assert association.is_established
    with closing(association.dul.socket.socket):
        yield association
        if association.is_established:
            association.release()


def ask(association: Any, *uids: str, transaction: str = "1.2.3.4", sop_class: str = CR, action: int = 1) -> int:
    status, _ = association.send_n_action(
        request_of(transaction, *uids, sop_class=sop_class), action, PUSH_MODEL, PUSH_MODEL_INSTANCE
    )
    code: int = status.Status
    return code


def store(association: Any, *datasets: Dataset) -> list[str]:
    assert [association.send_c_store(dataset).Status for dataset in datasets] == [0] * len(datasets)
    return [str(dataset.SOPInstanceUID) for dataset in datasets]


@pytest.fixture
def peer(free_port: Callable[[], int]) -> Iterator[Callable[..., tuple[int, Inbox]]]:
    """Start a peer that takes reports on associations of ours."""
    servers = []

    def start(port: int | None = None, *, replies_to_roles: bool = True) -> tuple[int, Inbox]:
        inbox, entity = Inbox(), AE("PACS")
        if replies_to_roles:
            entity.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
        else:
            entity.add_supported_context(PUSH_MODEL)
        port = port or free_port()
        handlers = [(evt.EVT_N_EVENT_REPORT, inbox.on_event_report)]
        servers.append(entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers))
        return port, inbox

    yield start
    for server in servers:
        server.shutdown()


def reports_of(running: Any) -> CommitmentReportSender:
    return CommitmentReportSender(running.settings, database=running.database, spool=running.spool, draw=lambda: 0.0)


def row(running: Any) -> dict[str, Any]:
    (found,) = running.query("SELECT * FROM commitment")
    return dict(found)


@pytest.mark.parametrize("role", [False, True])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_what_is_kept_is_committed_and_nothing_else(
    listening: Any, synthetic_xray: Callable[..., Dataset], role: bool, syntax: str, wait_for: Callable[..., Any]
) -> None:
    running, inbox = listening(), Inbox()
    with asking(running.port, inbox, role=role, syntax=syntax) as association:
        frontal, lateral = store(association, synthetic_xray(seed=1), synthetic_xray(seed=2, ViewPosition="LL"))
        assert ask(association, frontal, lateral, "1.2.3.999") == 0
        refused = {lateral: NO_SUCH_INSTANCE, "1.2.3.999": NO_SUCH_INSTANCE}
        assert inbox.wait() == (2, "1.2.3.4", {frontal}, refused)
        assert ask(association, frontal, transaction="1.2.3.5") == 0
        assert inbox.wait() == (1, "1.2.3.5", {frontal}, {})
        wait_for(lambda: not running.query("SELECT * FROM commitment WHERE state = 'pending'"), "both are reported")
    assert [(it["state"], it["instances"], it["committed"]) for it in running.query("SELECT * FROM commitments")] == [
        ("reported", 3, 1),
        ("reported", 1, 1),
    ]
    assert running.query("SELECT * FROM commitment_item") == []  # nothing of it is remembered
    kinds = [it["kind"] for it in running.query("SELECT kind FROM event WHERE kind LIKE 'commitment%'")]
    assert kinds == ["commitment_requested", "commitment_reported"] * 2


def test_a_file_that_is_not_what_came_is_not_committed(listening: Any, synthetic_xray: Callable[..., Dataset]) -> None:
    running, inbox = listening(), Inbox()
    with asking(running.port, inbox) as association:
        sound, changed, gone = store(association, *(synthetic_xray(seed=seed) for seed in (1, 2, 3)))
        paths = {it["sop_instance_uid"]: running.spool.path(it["spool_name"]) for it in running.images()}
        content = bytearray(paths[changed].read_bytes())
        content[-1] ^= 1
        paths[changed].write_bytes(content)
        paths[gone].unlink()
        assert ask(association, sound, changed, gone) == 0
        assert inbox.wait()[2:] == ({sound}, {changed: NO_SUCH_INSTANCE, gone: NO_SUCH_INSTANCE})
        assert ask(association, sound, sop_class=DX) == 0
        assert inbox.wait()[2:] == (set(), {sound: CLASS_CONFLICT})


def test_what_was_committed_is_kept_so_long_and_then_denied(
    listening: Any, synthetic_xray: Callable[..., Dataset]
) -> None:
    running, inbox = listening({"listener": {}}), Inbox()
    keep_nothing = RetentionSettings(pixels_days=0, low_space_mib=2**40)
    with asking(running.port, inbox) as association:
        (uid,) = store(association, synthetic_xray(seed=1))
        assert ask(association, uid) == 0
        assert inbox.wait()[2] == {uid}
        with running.database.begin() as session:
            session.get_one(Job, 1).state = "reported"  # type: ignore[assignment]
        now = datetime.now(UTC)
        for days, is_kept in ((1, True), (29, True), (31, False)):
            removed = retention.enforce(running.database, running.spool, keep_nothing, now=now + timedelta(days=days))
            assert (removed.pixels == 0) is is_kept
        assert ask(association, uid) == 0
        assert inbox.wait()[2:] == (set(), {uid: NO_SUCH_INSTANCE})


def test_a_forgotten_image_is_denied(listening: Any, synthetic_xray: Callable[..., Dataset]) -> None:
    running, inbox = listening(), Inbox()
    with asking(running.port, inbox) as association:
        (uid,) = store(association, synthetic_xray(seed=1))
        assert ask(association, uid) == 0
        assert inbox.wait()[2] == {uid}
        with running.database.begin() as session:
            forget.forget(session, running.spool, 1, now=datetime.now(UTC))
            assert session.get(Custody, 1) is None
        assert ask(association, uid) == 0
        assert inbox.wait()[2:] == (set(), {uid: NO_SUCH_INSTANCE})


@pytest.mark.parametrize("replies_to_roles", [True, False])
def test_a_peer_that_released_gets_its_report_on_a_new_association(
    listening: Any, synthetic_xray: Callable[..., Dataset], peer: Any, replies_to_roles: bool, wait_for: Any
) -> None:
    port, inbox = peer(replies_to_roles=replies_to_roles)
    network = {"ae_title": "PACS", "network": "127.0.0.0/8", "commitment_reports_to": f"127.0.0.1:{port}"}
    running = listening({"peers": [network]})
    with asking(running.port, Inbox()) as association:
        (uid,) = store(association, synthetic_xray(seed=1))
        assert ask(association, uid) == 0
    wait_for(lambda: row(running)["due_at"] <= f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}", "the report is due")
    assert reports_of(running).report_due(datetime.now(UTC)) == 1
    assert inbox.wait() == (1, "1.2.3.4", {uid}, {})
    assert row(running)["state"] == "reported"
    assert reports_of(running).report_due(datetime.now(UTC) + timedelta(days=1)) == 0


def test_reports_can_always_go_to_a_new_association(
    listening: Any, synthetic_xray: Callable[..., Dataset], peer: Any
) -> None:
    port, inbox = peer()
    destination = {"name": "pacs", "kind": "dicom", "address": f"PACS@127.0.0.1:{port}"}
    running = listening({"destinations": [destination]}, commitment={"report_on": "new"})
    own = Inbox()
    with asking(running.port, own) as association:
        (uid,) = store(association, synthetic_xray(seed=1))
        assert ask(association, uid) == 0
        assert reports_of(running).report_due(datetime.now(UTC)) == 1
        assert inbox.wait()[2] == {uid}
        assert own.said == []


def test_a_peer_that_is_away_gets_its_report_when_it_is_back(
    listening: Any, synthetic_xray: Callable[..., Dataset], peer: Any, free_port: Callable[[], int]
) -> None:
    port = free_port()
    network = {"ae_title": "PACS", "network": "127.0.0.0/8", "commitment_reports_to": f"127.0.0.1:{port}"}
    running = listening({"peers": [network]}, commitment={"report_on": "new"})
    with asking(running.port, Inbox()) as association:
        (uid,) = store(association, synthetic_xray(seed=1))
        assert ask(association, uid) == 0
    now = datetime.now(UTC)
    reports = reports_of(running)
    assert reports.report_due(now) == 1
    assert (row(running)["error_code"], row(running)["attempts"]) == ("peer_unreachable", 1)
    assert reports.report_due(now + timedelta(seconds=5)) == 0
    _, inbox = peer(port)
    assert reports.report_due(now + timedelta(minutes=1)) == 1
    assert inbox.wait()[2] == {uid}
    assert row(running)["state"] == "reported"


def test_a_report_that_nobody_takes_is_given_up(
    listening: Any, synthetic_xray: Callable[..., Dataset], free_port: Callable[[], int]
) -> None:
    network = {"ae_title": "PACS", "network": "127.0.0.0/8", "commitment_reports_to": f"127.0.0.1:{free_port()}"}
    running = listening({"peers": [network]}, commitment={"report_on": "new"})
    with asking(running.port, Inbox()) as association:
        assert ask(association, *store(association, synthetic_xray(seed=1))) == 0
    for days in range(8, 18):  # a week, and often enough
        reports_of(running).report_due(datetime.now(UTC) + timedelta(days=days))
    assert (row(running)["state"], row(running)["error_code"]) == ("dead", "peer_unreachable")
    assert running.query("SELECT * FROM commitment_item") == []


def test_a_peer_without_an_address_can_only_be_told_on_its_own_association(
    listening: Any, synthetic_xray: Callable[..., Dataset]
) -> None:
    running = listening(commitment={"report_on": "new"})
    with asking(running.port, Inbox()) as association:
        assert ask(association, *store(association, synthetic_xray(seed=1))) == 0
    reports_of(running).report_due(datetime.now(UTC))
    assert (row(running)["state"], row(running)["error_code"]) == ("dead", "no_address")


def test_the_worker_takes_over_from_a_listener_that_was_killed(
    listening: Any, synthetic_xray: Callable[..., Dataset], peer: Any
) -> None:
    port, inbox = peer()
    network = {"ae_title": "PACS", "network": "127.0.0.0/8", "commitment_reports_to": f"127.0.0.1:{port}"}
    running = listening({"peers": [network]})
    with asking(running.port, Inbox()) as association:
        assert ask(association, *store(association, synthetic_xray(seed=1))) == 0
        now = datetime.now(UTC)  # the listener still has it
        assert reports_of(running).report_due(now) == 0
        assert reports_of(running).report_due(now + timedelta(minutes=2)) == 1
        assert inbox.wait()[0] == 1


def test_a_request_that_is_repeated_is_answered_anew(listening: Any, synthetic_xray: Callable[..., Dataset]) -> None:
    running, inbox = listening(), Inbox()
    with asking(running.port, inbox) as association:
        (uid,) = store(association, synthetic_xray(seed=1))
        for _ in range(2):
            assert ask(association, uid, uid) == 0
            assert inbox.wait() == (1, "1.2.3.4", {uid}, {})


@pytest.mark.parametrize(
    ("request_", "action", "instance", "status"),
    [
        (request_of("1.2.3", "1.2.4"), 2, PUSH_MODEL_INSTANCE, 0x0123),
        (request_of("1.2.3", "1.2.4"), 1, "1.2.3", 0x0112),
        (request_of("1.2.3"), 1, PUSH_MODEL_INSTANCE, 0x0115),
        (request_of("", "1.2.4"), 1, PUSH_MODEL_INSTANCE, 0x0115),
        (request_of("1.2.3", ""), 1, PUSH_MODEL_INSTANCE, 0x0115),
        (without("ReferencedSOPSequence"), 1, PUSH_MODEL_INSTANCE, 0x0115),
        (without("TransactionUID"), 1, PUSH_MODEL_INSTANCE, 0x0115),
    ],
)
def test_a_request_that_is_none_gets_its_status_and_the_association_goes_on(
    listening: Any, request_: Dataset, action: int, instance: str, status: int
) -> None:
    running = listening()
    with asking(running.port, Inbox()) as association:
        answer, _ = association.send_n_action(request_, action, PUSH_MODEL, instance)
        assert answer.Status == status
        assert ask(association, "1.2.3") == 0
    assert len(running.query("SELECT * FROM commitment")) == 1


@pytest.mark.filterwarnings("ignore:Expected explicit VR")  # pydicom's, over bytes that are no data set
@pytest.mark.parametrize(
    ("information", "status"),
    [(b"no data set at all", 0x0115), (b"\x08\x00\x99\x11SQ\0\0\xff\xff\xff\xff", 0x0115), (bytes(5 * 2**20), 0x0213)],
)
def test_bytes_that_are_no_request_are_refused(listening: Any, scu: Any, information: bytes, status: int) -> None:
    running = listening()
    with scu(running.port, {CR: [EXPLICIT], str(PUSH_MODEL): [EXPLICIT]}) as peer:
        message = N_ACTION()
        message.MessageID, message.ActionTypeID = 3, 1
        message.RequestedSOPClassUID, message.RequestedSOPInstanceUID = PUSH_MODEL, PUSH_MODEL_INSTANCE
        message.ActionInformation = BytesIO(information)
        peer.association.dimse.send_msg(message, peer.context(str(PUSH_MODEL)))
        assert peer.answer() == status
        assert peer.echo() == 0
    assert running.query("SELECT * FROM commitment") == []


def test_switched_off_the_context_is_rejected(listening: Any) -> None:
    running = listening(commitment={"enabled": False})
    with asking(running.port, Inbox()) as association:
        rejected = [context.abstract_syntax for context in association.rejected_contexts]
        assert rejected == [PUSH_MODEL]


def test_a_peer_that_wants_to_report_to_us_here_is_told_that_it_can_not(listening: Any) -> None:
    running, entity = listening(), AE("PACS")
    entity.add_requested_context(PUSH_MODEL)
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate(
        "127.0.0.1", running.port, ae_title="CXR", ext_neg=[build_role(PUSH_MODEL, scp_role=True)]
    )
    with closing(association.dul.socket.socket):
        assert [context.abstract_syntax for context in association.rejected_contexts] == [PUSH_MODEL]
        association.release()


def test_pseudonyms_hide_no_image_from_its_sender(listening: Any, synthetic_xray: Callable[..., Dataset]) -> None:
    running = listening()
    with running.database.read() as session:
        key = session.info[AUDIT_KEY]
    pseudonyms = Database(running.database.path, key, Identifiers("pseudonym", bytes(32)))
    for part in (running.listener._servers[0].service._intake, running.listener._servers[0].service.commitments):
        part._database = pseudonyms
    inbox = Inbox()
    with asking(running.port, inbox) as association:
        (uid,) = store(association, synthetic_xray(seed=1))
        assert [it["sop_instance_uid"] for it in running.images()] != [uid]
        assert ask(association, uid) == 0
        assert inbox.wait()[2] == {uid}
    pseudonyms.dispose()


def test_a_flood_of_requests_is_one_table_row_each(listening: Any) -> None:
    """What a peer writes down here is bounded by what it asks, and goes with the answer."""
    running, inbox = listening(), Inbox()
    with asking(running.port, inbox) as association:
        uids = [f"1.2.3.{number}" for number in range(1, 2001)]
        assert ask(association, *uids) == 0
        assert len(inbox.wait()[3]) == 2000
    with running.database.read() as session:
        assert session.query(CommitmentItem).count() == 0
        assert session.query(Commitment).count() == 1
        assert session.query(Image).count() == 0


@pytest.fixture
def archive(orthanc_factory: Callable[..., Any], free_port: Callable[[], int]) -> Any:
    """Orthanc, which knows us and asks for commitment."""
    port = free_port()
    modality = {"AET": "CXR", "Host": "127.0.0.1", "Port": port, "AllowStorageCommitment": True}
    started = orthanc_factory(DicomModalities={"cxr": modality})
    started.cxr_port = port
    return started


@pytest.mark.parametrize("report_on", ["same", "new"])
def test_orthanc_asks_and_is_told(
    archive: Any, listening: Any, synthetic_xray: Callable[..., Dataset], wait_for: Any, report_on: str
) -> None:
    network = {
        "ae_title": "ORTHANC",
        "network": "127.0.0.0/8",
        "commitment_reports_to": f"127.0.0.1:{archive.dicom_port}",
    }
    running = listening({"peers": [network]}, port=archive.cxr_port, commitment={"report_on": report_on})
    frontal, lateral = synthetic_xray(seed=1), synthetic_xray(seed=2, ViewPosition="LL")
    ids = []
    for dataset in (frontal, lateral):
        content = BytesIO()
        dataset.save_as(content, enforce_file_format=True)
        ids.append(archive.post("/instances", content.getvalue())["ID"])
    archive.post("/modalities/cxr/store", {"Resources": ids, "Synchronous": True})
    assert [it["state"] for it in running.images()] == ["queued", "not_scored"]

    def outcome(*resources: str) -> dict[str, Any]:
        asked = archive.post("/modalities/cxr/storage-commitment", {"Resources": list(resources)})

        def answered() -> Any:
            reports_of(running).report_due(datetime.now(UTC))
            found = archive.get(asked["Path"])
            return found if found["Status"] != "Pending" else None

        found: dict[str, Any] = wait_for(answered, "Orthanc has its report")
        return found

    assert outcome(ids[0])["Status"] == "Success"
    both = outcome(*ids)
    assert both["Status"] == "Failure"
    assert [it["SOPInstanceUID"] for it in both["Success"]] == [frontal.SOPInstanceUID]
    failures = [(it["SOPInstanceUID"], it["FailureReason"]) for it in both["Failures"]]
    assert failures == [(lateral.SOPInstanceUID, NO_SUCH_INSTANCE)]
    assert {it["state"] for it in running.query("SELECT * FROM commitment")} == {"reported"}
