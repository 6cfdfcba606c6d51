"""A-ASSOCIATE-AC, -RJ and A-ABORT as destinations of other makers send them, over a socket."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification

from cxr.errors import AccessRefused, PeerBusy, PeerUnreachable, PresentationContextRejected
from inference.delivery.association import Address, abandon, context, open_association, status_of

APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
IMPLICIT = str(ImplicitVRLittleEndian).encode()


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


ECHO_RESPONSE = (
    element(0x0002, b"1.2.840.10008.1.1\0")
    + element(0x0100, b"\x30\x80")
    + element(0x0120, b"\1\0")
    + element(0x0800, b"\1\1")
    + element(0x0900, b"\0\0")
)


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(body)) + body


def acceptance(
    *, contexts: bytes | None = None, user: bytes = b"", head: bytes = b" " * 32, tail: bytes = b""
) -> bytes:
    one = item(0x21, struct.pack(">BxBx", 1, 0) + item(0x40, IMPLICIT))
    information = item(0x50, user or item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3"))
    body = struct.pack(">HH", 1, 0) + head + bytes(32) + item(0x10, APPLICATION_CONTEXT)
    return pdu(2, body + (one if contexts is None else contexts) + information + tail)


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], int]]:
    """Start a peer that answers each A-ASSOCIATE-RQ with given bytes, and each message with a C-ECHO-RSP."""
    servers: list[socket.socket] = []

    def read_pdu(connection: socket.socket) -> int:
        with connection.makefile("rb") as stream:
            kind, length = struct.unpack(">BxI", stream.read(6))
            stream.read(length)
            return int(kind)

    def serve(connection: socket.socket, answer: bytes) -> None:
        with suppress(OSError, struct.error), connection:
            while True:
                kind = read_pdu(connection)
                if kind == 1:
                    connection.sendall(answer)
                elif kind == 4:
                    fragment = struct.pack(">IBB", len(ECHO_RESPONSE) + 2, 1, 3) + ECHO_RESPONSE
                    connection.sendall(pdu(4, fragment))
                else:
                    return

    def accept(server: socket.socket, answer: bytes) -> None:
        with suppress(OSError):
            while True:
                connection = server.accept()[0]
                threading.Thread(target=serve, args=(connection, answer), daemon=True).start()

    def start(answer: bytes) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        threading.Thread(target=accept, args=(server, answer), daemon=True).start()
        return int(server.getsockname()[1])

    yield start
    for server in servers:
        server.close()


def called(port: int) -> Address:
    return Address(ae_title="PACS", host="127.0.0.1", port=port, calling_ae_title="CXR", timeout_s=20.0)


VERIFICATION = [context(str(Verification), [str(ImplicitVRLittleEndian)])]


@pytest.mark.parametrize(
    "answer",
    [
        acceptance(),
        acceptance(head=bytes(32)),
        acceptance(user=item(0x51, struct.pack(">I", 16384)) + item(0x5A, b"ab")),
        acceptance(user=item(0x52, b"1.2.3") + item(0x55, b"V" * 20)),
        acceptance(user=item(0x51, struct.pack(">I", 3)) + item(0x55, b"V1\0")),
        acceptance(user=item(0x59, b"\0\1x")),
        acceptance(tail=item(0x99, b"zz") + b"\0"),
    ],
    ids=lambda answer: str(len(answer)),
)
def test_an_acceptance_that_dcmtk_takes_is_one(answer: bytes, answering: Callable[[bytes], int]) -> None:
    association = open_association(called(answering(answer)), VERIFICATION)
    try:
        assert status_of(association.send_c_echo()) == 0x0000
    finally:
        abandon(association)


def test_an_acceptance_of_nothing_names_what_was_proposed(answering: Callable[[bytes], int]) -> None:
    answer = acceptance(contexts=item(0x21, struct.pack(">BxBx", 1, 3)))
    with pytest.raises(PresentationContextRejected, match="Verification SOP Class"):
        open_association(called(answering(answer)), VERIFICATION)


def test_an_acceptance_that_can_not_be_read_is_named_by_item_and_offset(
    answering: Callable[[bytes], int], caplog: pytest.LogCaptureFixture
) -> None:
    answer = pdu(2, acceptance()[6:-2])
    with pytest.raises(PeerUnreachable, match=r"item 50H at byte \d+"):
        open_association(called(answering(answer)), VERIFICATION)
    (line,) = [record.getMessage() for record in caplog.records if "bad_pdu" in record.getMessage()]
    assert "50H" in line and "127.0.0.1" in line


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ((1, 1, 3), AccessRefused),
        ((1, 1, 10), AccessRefused),
        ((1, 3, 0), AccessRefused),
        ((0, 0, 0), AccessRefused),
        ((2, 3, 2), PeerBusy),
        ((2, 9, 9), PeerBusy),
    ],
)
def test_every_rejection_is_one(
    said: tuple[int, int, int], error: type[Exception], answering: Callable[[bytes], int]
) -> None:
    with pytest.raises(error):
        open_association(called(answering(pdu(3, bytes([0, *said])))), VERIFICATION)


@pytest.mark.parametrize("said", [(0, 0), (1, 1), (2, 3), (9, 9)])
def test_every_abort_ends_the_call(said: tuple[int, int], answering: Callable[[bytes], int]) -> None:
    with pytest.raises(PeerUnreachable):
        open_association(called(answering(pdu(7, bytes([0, 0, *said])))), VERIFICATION)


def test_an_answer_of_four_gigabytes_is_not_read(answering: Callable[[bytes], int]) -> None:
    with pytest.raises(PeerUnreachable):
        open_association(called(answering(struct.pack(">BxI", 2, 0xFFFFFFFF) + bytes(100))), VERIFICATION)
