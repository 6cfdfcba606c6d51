"""The upper layer, PDU by PDU: what each is answered with, and that nothing of its association stays.

The timeouts are long: what ends here ends because it was understood, and not because time ran out.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE

from listener import dimse_messages

RQ, AC, RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
END = b""
PATIENT = {"acse_timeout_s": 300, "dimse_timeout_s": 300, "idle_timeout_s": 300}
VERIFICATION = "1.2.840.10008.1.1"
HEAD = b"\0\1\0\0" + b"CXR".ljust(16) + b"MODALITY".ljust(16) + bytes(32)


def pdu(kind: int, body: bytes = bytes(4), length: int | None = None) -> bytes:
    return struct.pack(">BxL", kind, len(body) if length is None else length) + body


def fragment(control: int, data: bytes, context_id: int = 1) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context_id, control) + data


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0x0000, number, len(value)) + value


def echo(message_id: int, *, padding: int = 0) -> bytes:
    rest = element(0x0002, (VERIFICATION + "\0").encode()) + element(0x0100, struct.pack("<H", 0x0030))
    rest += element(0x0110, struct.pack("<H", message_id)) + element(0x0800, struct.pack("<H", 0x0101))
    if padding:
        rest += element(0x1000, bytes(padding))
    return element(0x0000, struct.pack("<L", len(rest))) + rest


@pytest.fixture(scope="module")
def request_of() -> Callable[[str], bytes]:
    """The bytes of an A-ASSOCIATE-RQ for Verification."""

    @cache
    def make(calling: str = "MODALITY") -> bytes:
        asked: list[A_ASSOCIATE] = []
        entity = AE(calling)
        entity.add_requested_context(VERIFICATION)
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            nobody.listen(1)
            entity.acse_timeout = 1
            association = entity.associate("127.0.0.1", nobody.getsockname()[1], ae_title="CXR")
            asked.append(association.requestor.primitive)
        return bytes(A_ASSOCIATE_RQ(asked[0]).encode())

    return make


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        yield connection


def answer(connection: socket.socket) -> tuple[int, bytes] | bytes:
    """Type and body of the next PDU; END: the connection was closed, in order."""
    header = exactly(connection, 6)
    if len(header) < 6:
        return header
    kind, length = struct.unpack(">BxL", header)
    return kind, exactly(connection, length)


def exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count and (more := connection.recv(count - len(received))):
        received += more
    return received


@pytest.fixture
def nothing_is_left(wait_for: Any) -> Callable[[Any], None]:
    def check(running: Any) -> None:
        servers = running.listener._servers
        wait_for(lambda: not any(server.associations for server in servers), "no association is left")
        wait_for(lambda: len(running.listener.silent) == 0, "no connection is left")
        assert running.listener.associations == 0

    return check


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
        pdu(0x00),
        pdu(0x08),
        pdu(AC),
        pdu(RJ),
        pdu(P_DATA, fragment(3, echo(1))),
        pdu(RELEASE_RQ),
        pdu(RELEASE_RP),
        pdu(RQ, b"\x00\x01"),  # cut short
        pdu(RQ, HEAD + b"\xff" * 132),
        pdu(RQ, HEAD + b"\x50\0\0\x10"),  # an item that is longer than the PDU
        pdu(RQ, b"", length=0xFFFFFFFF),
        pdu(RQ, b"", length=2 * 1024 * 1024),
    ],
    ids=lambda said: said[:8].hex(),
)
def test_what_is_no_request_for_an_association_is_aborted(listening: Any, nothing_is_left: Any, said: bytes) -> None:
    running = listening(**PATIENT)
    with connected(running.port) as peer:
        peer.sendall(said)
        kind, body = answer(peer)
        assert kind == ABORT
        assert len(body) == 4
        peer.shutdown(socket.SHUT_WR)
        assert answer(peer) == END
    nothing_is_left(running)


def test_who_does_not_wait_for_the_answer_is_aborted(listening: Any, nothing_is_left: Any, request_of: Any) -> None:
    running = listening(**PATIENT)
    with connected(running.port) as peer:
        peer.sendall(request_of() + pdu(P_DATA, bytes(3)))
        peer.shutdown(socket.SHUT_WR)
        kinds = [found[0] for found in iter(lambda: answer(peer), END)]
        assert kinds in ([ABORT], [AC, ABORT])
    nothing_is_left(running)


def test_an_abort_that_comes_first_ends_the_connection_at_once(listening: Any, nothing_is_left: Any) -> None:
    running = listening(**PATIENT)
    with connected(running.port) as peer:
        peer.sendall(pdu(ABORT))
        assert answer(peer) == END
        nothing_is_left(running)


def test_a_peer_that_goes_within_its_request_leaves_nothing(
    listening: Any, nothing_is_left: Any, request_of: Any
) -> None:
    running = listening(**PATIENT)
    for count in (1, 5, 6, 80):
        with connected(running.port) as peer:
            peer.sendall(request_of()[:count])
    nothing_is_left(running)


def test_a_rejection_reaches_a_peer_that_goes_on_talking(listening: Any, nothing_is_left: Any, request_of: Any) -> None:
    """If we closed with bytes of the peer unread, it would see a reset connection, and never the reason."""
    running = listening({"peers": [{"ae_title": "MODALITY", "network": "127.0.0.0/8"}]}, **PATIENT)
    with connected(running.port) as peer:
        peer.sendall(request_of("STRANGER"))
        assert peer.recv(1, socket.MSG_PEEK) == bytes([RJ])  # it is out
        peer.sendall(pdu(P_DATA, bytes(100_000)) * 20)
        assert answer(peer) == (RJ, bytes([0, 1, 1, 3]))
        peer.settimeout(1.0)
        with pytest.raises(TimeoutError):  # it is the peer's to close
            peer.recv(1)
        peer.settimeout(120)
        peer.shutdown(socket.SHUT_WR)
        assert answer(peer) == END
    nothing_is_left(running)


@pytest.mark.parametrize(
    "said",
    [
        pdu(0x99),
        pdu(AC),
        pdu(RELEASE_RP),
        pdu(P_DATA, bytes(3)),
        pdu(P_DATA, struct.pack(">LBB", 0, 1, 3)),  # a fragment without its header
        pdu(P_DATA, struct.pack(">LBB", 1000, 1, 3)),  # longer than its PDU
        pdu(P_DATA, fragment(3, echo(1), context_id=5)),  # not accepted
        pdu(P_DATA, fragment(2, b"data")),  # that no command announced
        pdu(P_DATA, fragment(3, b"no command")),
        pdu(P_DATA, fragment(1, echo(1)) + fragment(1, bytes(dimse_messages.MAX_COMMAND_BYTES))),  # no end to it
        pdu(P_DATA, b"".join(fragment(3, echo(number)) for number in range(20))),  # more at once than are served
        pdu(P_DATA, b"", length=0xFFFFFFFF),
    ],
    ids=lambda said: said[:16].hex(),
)
def test_what_breaks_an_association_is_told_by_an_abort(
    listening: Any, nothing_is_left: Any, request_of: Any, said: bytes
) -> None:
    running = listening(**PATIENT)
    with connected(running.port) as peer:
        peer.sendall(request_of())
        assert answer(peer)[0] == AC
        peer.sendall(said)
        peer.shutdown(socket.SHUT_WR)
        kinds = [found[0] for found in iter(lambda: answer(peer), END)]
        assert kinds[-1] == ABORT
        assert set(kinds[:-1]) <= {P_DATA}, "answers to what came before"
    nothing_is_left(running)


def test_a_message_that_trickles_is_cut_however_busily_it_comes(
    listening: Any, nothing_is_left: Any, wait_for: Any
) -> None:
    running = listening(**(PATIENT | {"message_timeout_s": 1.0}))
    cr, implicit = b"1.2.840.10008.5.1.4.1.1.1", b"1.2.840.10008.1.2"
    context = struct.pack(">Bxxx", 1) + _item(0x30, cr) + _item(0x40, implicit)
    items = (
        _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x20, context) + _item(0x50, _item(0x51, bytes([0, 0, 64, 0])))
    )
    store = element(0x0002, cr + b"\0") + element(0x0100, b"\1\0") + element(0x0110, b"\1\0")
    store += element(0x0700, b"\0\0") + element(0x0800, b"\1\0") + element(0x1000, b"1.2.3.4\0")
    with connected(running.port) as peer:
        peer.sendall(pdu(RQ, HEAD + items))
        assert answer(peer)[0] == AC
        peer.sendall(pdu(P_DATA, fragment(3, store)) + pdu(P_DATA, fragment(0, bytes(2))))
        wait_for(lambda: len(running.incoming()) == 1, "the object has begun")
        peer.settimeout(0.1)
        kind = b""
        while not kind:
            peer.sendall(pdu(P_DATA, fragment(0, bytes(2))))
            with suppress(TimeoutError):
                kind = peer.recv(1)
        assert kind == bytes([ABORT])
    nothing_is_left(running)
    assert running.incoming() == []


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


@pytest.mark.parametrize("last", ["release", "abort", "close"])
def test_an_association_ends_as_its_peer_ends_it(
    listening: Any, nothing_is_left: Any, request_of: Any, last: str
) -> None:
    running = listening(**PATIENT)
    with connected(running.port) as peer:
        peer.sendall(request_of())
        assert answer(peer)[0] == AC
        peer.sendall(pdu(P_DATA, fragment(3, echo(7))))
        kind, body = answer(peer)
        assert kind == P_DATA
        assert element(0x0120, struct.pack("<H", 7)) in body
        if last == "release":
            peer.sendall(pdu(RELEASE_RQ))
            assert answer(peer) == (RELEASE_RP, bytes(4))
            peer.shutdown(socket.SHUT_WR)
        elif last == "abort":
            peer.sendall(pdu(ABORT))
        else:
            peer.shutdown(socket.SHUT_WR)
        assert answer(peer) == END
    nothing_is_left(running)


def test_a_request_that_is_followed_by_a_release_in_one_breath_is_answered_first(
    listening: Any, nothing_is_left: Any, request_of: Any
) -> None:
    running = listening(**PATIENT)
    with connected(running.port) as peer:
        peer.sendall(request_of())
        assert answer(peer)[0] == AC
        peer.sendall(pdu(P_DATA, fragment(3, echo(7))) + pdu(RELEASE_RQ))
        assert [answer(peer)[0] for _ in range(2)] == [P_DATA, RELEASE_RP]
    nothing_is_left(running)


def test_a_released_peer_that_does_not_close_is_cut(listening: Any, nothing_is_left: Any, request_of: Any) -> None:
    request = request_of()  # made before the time runs
    running = listening(**(PATIENT | {"acse_timeout_s": 2.0}))
    with connected(running.port) as peer:
        peer.sendall(request)
        assert answer(peer)[0] == AC
        peer.sendall(pdu(RELEASE_RQ))
        assert answer(peer)[0] == RELEASE_RP
        assert answer(peer) == END
        nothing_is_left(running)
