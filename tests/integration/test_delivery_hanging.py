"""Destinations that stop, or trickle, in the middle of what they say: every call to them ends, and leaves nothing."""

from __future__ import annotations

import queue
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from pydicom import dcmread
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider

from cxr.errors import PeerUnreachable
from inference.delivery.association import Address, client_certificates, close, context, open_association
from inference.delivery.commitment_scu import CommitmentInbox, CommitmentServer
from inference.delivery.destination_client import OutgoingReport
from inference.delivery.dicom_client import DicomClient
from inference.delivery.dicom_verifier import DicomVerifier
from inference.report.uids import derive_uid, series_uid

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
VERIFICATION = "1.2.840.10008.1.1"

How = Literal["part of the answer", "byte by byte", "reads no more"]


class Stalling:
    """Stands before a real peer: the association comes to be, and then it stalls."""

    def __init__(self, port: int, how: How, tls: ssl.SSLContext | None) -> None:
        self._behind, self._how, self._tls = port, how, tls
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._ended = threading.Event()
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def end(self) -> None:
        self._ended.set()
        for connection in [self._server, *self._open]:
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection = self._server.accept()[0]
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with suppress(OSError):
            ours = self._tls.wrap_socket(plain, server_side=True) if self._tls else plain
            behind = socket.create_connection(("127.0.0.1", self._behind))
            self._open += [ours, behind]
            behind.sendall(_pdu(ours))
            ours.sendall(_pdu(behind))
            if self._how == "reads no more":
                return
            threading.Thread(target=self._pass_on, args=(ours, behind), daemon=True).start()
            answer = _pdu(behind)
            ours.sendall(answer[:3])
            if self._how == "byte by byte":
                for number in range(3, len(answer)):
                    if self._ended.wait(1.0):
                        return
                    ours.sendall(answer[number : number + 1])

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while received := source.recv(65536):
                target.sendall(received)


def _pdu(connection: socket.socket) -> bytes:
    header = _exactly(connection, 6)
    return header + _exactly(connection, struct.unpack(">BxL", header)[1])


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        more = connection.recv(count - len(received))
        if not more:
            raise ConnectionResetError
        received += more
    return received


def outcome_of(call: Callable[[], Any], *, within_s: float = 60.0) -> Any:
    """What a call returns or raises; that it comes back at all is what these tests are about."""
    outcomes: queue.Queue[Any] = queue.Queue()

    def run() -> None:
        try:
            outcomes.put(call())
        except Exception as error:  # noqa: BLE001 (handed on)
            outcomes.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcomes.get(timeout=within_s)
    except queue.Empty:
        pytest.fail(f"not back within {within_s} s")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    certificate, key = folder / "peer.pem", folder / "peer.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=peer"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture
def stalling(certificate: tuple[Path, Path]) -> Iterator[Callable[..., Stalling]]:
    made: list[Stalling] = []

    def make(port: int, how: How, *, tls: bool) -> Stalling:
        served = None
        if tls:
            served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            served.load_cert_chain(*certificate)
        made.append(Stalling(port, how, served))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def address(certificate: tuple[Path, Path]) -> Callable[..., Address]:
    def make(port: int, *, timeout_s: float = 2.0, tls: bool = False) -> Address:
        client = client_certificates(certificate[0], None, None, destination="pacs") if tls else None
        return Address(
            ae_title="PEER", host="127.0.0.1", port=port, calling_ae_title="CXR", timeout_s=timeout_s, tls=client
        )

    return make


@pytest.fixture
def outgoing(report_file: Callable[..., Path]) -> OutgoingReport:
    path, uid = report_file(0), derive_uid("test", "instance", "0")
    report = dcmread(path)
    report.TextValue = "x" * 20_000_000  # more than what lies between two sockets can take
    report.save_as(path)
    return OutgoingReport(
        report_id=0,
        path=path,
        sop_class_uid=str(report.SOPClassUID),
        sop_instance_uid=uid,
        study_instance_uid=derive_uid("test", "study", "0"),
        series_instance_uid=series_uid(uid),
    )


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("how", ["part of the answer", "byte by byte", "reads no more"])
def test_a_peer_that_stalls_is_unreachable(
    how: How, tls: bool, stalling: Any, peer_factory: Any, address: Any, outgoing: OutgoingReport, wait_for: Any
) -> None:
    before = set(threading.enumerate())
    peer = stalling(peer_factory().port, how, tls=tls)
    to = address(peer.port, tls=tls)
    client = DicomClient(to, verifier=DicomVerifier(to))
    assert isinstance(outcome_of(lambda: client.store(outgoing)), PeerUnreachable)
    client.close()
    wait_for(lambda: not _requestors(before), "no thread of the association goes on")


def test_a_peer_whose_answers_do_not_end_is_given_up(peer_factory: Any, address: Any, outgoing: OutgoingReport) -> None:
    said = 0

    def without_end(event: Any) -> Iterator[tuple[int, Any]]:
        nonlocal said
        while event.assoc.is_established and said < 100_000:
            said += 1
            yield 0xFF00, event.identifier

    peer = peer_factory(also=(FIND,), handlers=((evt.EVT_C_FIND, without_end),))
    verifier = DicomVerifier(address(peer.port, timeout_s=30.0), mode="find")
    assert isinstance(outcome_of(lambda: verifier.verify([outgoing]), within_s=200.0), PeerUnreachable)
    assert said < 100_000


def test_a_thread_that_ended_by_a_fault_holds_up_no_release(peer_factory: Any, address: Any) -> None:
    to = address(peer_factory(also=(VERIFICATION,)).port)
    association = open_association(to, [context(VERIFICATION, ["1.2.840.10008.1.2"])])
    reported = threading.excepthook
    threading.excepthook = lambda _: None
    try:
        association.dimse.get_msg = lambda block=False: 1 / 0
        association.join(30)
    finally:
        threading.excepthook = reported
    assert not association.is_alive()
    outcome_of(lambda: close(association))


def test_an_association_s_own_thread_takes_no_answer_of_another_s(peer_factory: Any, address: Any) -> None:
    """Woken at the end of one request, it must not count as waiting at the start of the next."""
    association = open_association(
        address(peer_factory(also=(VERIFICATION,)).port), [context(VERIFICATION, ["1.2.840.10008.1.2"])]
    )
    looked: list[threading.Thread] = []
    get_msg = association.dimse.get_msg

    def look(block: bool = False) -> Any:
        looked.append(threading.current_thread())
        return get_msg(block)

    association.dimse.get_msg = look
    checkpoint = association._reactor_checkpoint
    checkpoint.clear()
    outcome_of(lambda: _until_paused(association))
    for _ in range(300):
        before = len(looked)
        checkpoint.set()  # as a request ends
        checkpoint.clear()  # as the next one begins
        outcome_of(lambda: _until_paused(association))
        looks = len(looked)
        assert looks > before  # else it would not see that the peer releases the association in between
        time.sleep(0.002)
        assert len(looked) == looks
    checkpoint.set()
    assert association.send_c_echo().Status == 0x0000
    close(association)
    assert association.is_released


def _until_paused(association: Association) -> None:
    while not association._is_paused:
        time.sleep(0.0001)


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux lets a program ask for it")
def test_no_message_waits_for_an_acknowledgement_that_the_kernel_holds_back(peer_factory: Any, address: Any) -> None:
    association = open_association(
        address(peer_factory(also=(VERIFICATION,)).port), [context(VERIFICATION, ["1.2.840.10008.1.2"])]
    )
    for _ in range(3):
        assert association.send_c_echo().Status == 0x0000
    connection = association.dul.socket.socket
    nodelay, quickack = (
        connection.getsockopt(socket.IPPROTO_TCP, option) for option in (socket.TCP_NODELAY, socket.TCP_QUICKACK)
    )
    close(association)
    assert (bool(nodelay), bool(quickack)) == (True, True)


def test_silent_peers_hold_up_neither_the_port_for_reports_nor_the_end_of_a_process(
    free_port: Callable[[], int], wait_for: Any
) -> None:
    before = set(threading.enumerate())
    server = CommitmentServer("127.0.0.1", free_port(), ae_title="CXR", inbox=CommitmentInbox())
    port = server._server.server_address[1]
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    try:
        silent[0].sendall(b"\x01\x00\x00")  # half a header
        wait_for(lambda: len(_acceptors(before)) == 3, "all are waited for")
        assert [thread for thread in set(threading.enumerate()) - before if not thread.daemon] == []
        outcome_of(server.close)
        silent[0].settimeout(60)
        assert silent[0].recv(1) == b""
        wait_for(lambda: _talkers(before) == [], "nothing talks for them any more")
    finally:
        for connection in silent:
            connection.close()


def _requestors(before: set[threading.Thread]) -> list[threading.Thread]:
    """Threads of associations that we asked for, and of what talks for them."""
    return [thread for thread in set(threading.enumerate()) - before if "Requestor" in thread.name]


def _acceptors(before: set[threading.Thread]) -> list[Association]:
    return [thread for thread in set(threading.enumerate()) - before if "Acceptor" in thread.name]


def _talkers(before: set[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in set(threading.enumerate()) - before if isinstance(thread, DULServiceProvider)]
