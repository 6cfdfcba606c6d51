"""The first bytes of a connection: a peer that is refused costs next to nothing, and none is waited for in vain."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from cxr.dicom.associate_pdu import APPLICATION_CONTEXT

AC, RJ, ABORT = 2, 3, 7
CR, IMPLICIT = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.2"
PATIENT = {"acse_timeout_s": 300, "dimse_timeout_s": 300, "idle_timeout_s": 300}
LISTED = {"peers": [{"ae_title": "MODALITY", "network": "127.0.0.0/8"}]}
ELSEWHERE = {"peers": [{"ae_title": "MODALITY", "network": "192.0.2.0/24"}]}


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def context(number: int, syntaxes: list[str]) -> bytes:
    sub_items = item(0x30, CR.encode()) + b"".join(item(0x40, uid.encode()) for uid in syntaxes)
    return item(0x20, struct.pack(">Bxxx", number) + sub_items)


def request(
    *,
    called: bytes = b"CXR",
    calling: bytes = b"MODALITY",
    contexts: bytes | None = None,
    user: bytes = b"",
    tail: bytes = b"",
    version: int = 1,
    application: bytes = APPLICATION_CONTEXT.encode(),
) -> bytes:
    body = struct.pack(">HH", version, 0) + called.ljust(16) + calling.ljust(16) + bytes(32)
    body += item(0x10, application) + (context(1, [IMPLICIT]) if contexts is None else contexts)
    body += item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3") + user) + tail
    return struct.pack(">BxI", 1, len(body)) + body


HUGE = b"".join(context(2 * n + 1, [f"1.2.840.10008.9.9.9.{k}" for k in range(150)]) for n in range(128))


def answer(connection: socket.socket) -> tuple[int, bytes] | None:
    """Type and body of the next PDU; None: the connection was closed, in order."""
    header = b""
    while len(header) < 6:
        more = connection.recv(6 - len(header))
        if not more:
            return None
        header += more
    kind, length = struct.unpack(">BxI", header)
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return kind, body


def asked(port: int, said: bytes) -> tuple[int, bytes] | None:
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(said)
        return answer(connection)


def association_threads() -> int:
    return sum(thread.name == "AcceptorThread" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (request(), (AC, None)),
        (request(called=b"CXR".ljust(16, b"\0")), (AC, None)),
        (request(called=b"CXR\0"), (AC, None)),
        (request(calling=b"MODALITY".ljust(16, b"\0")), (AC, None)),
        (request(version=0xFF03), (AC, None)),
        (request(user=item(0x5A, b"ab")), (AC, None)),
        (request(user=item(0x55, b"V" * 40)), (AC, None)),
        (request(tail=item(0x99, b"zz")), (AC, None)),
        (request(version=2), (RJ, (1, 2, 2))),
        (request(application=b"1.2.3"), (RJ, (1, 1, 2))),
        (request(application=b""), (RJ, (1, 1, 2))),
        (request(calling=b""), (RJ, (1, 1, 3))),
        (request(calling=bytes(16)), (RJ, (1, 1, 3))),
        (request(calling=b"MODALITY\t"), (RJ, (1, 1, 3))),
        (request(calling=b"\xe4"), (RJ, (1, 1, 3))),
        (request(called=b"CXR\n"), (RJ, (1, 1, 7))),
        (request(called=b""), (RJ, (1, 1, 7))),
        (request(tail=b"\x50\0\xff\xff"), (ABORT, None)),
    ],
    ids=lambda value: value[6:48].hex() if isinstance(value, bytes) else str(value),
)
def test_each_request_has_its_answer(listening: Any, said: bytes, expected: tuple[int, tuple[int, ...] | None]) -> None:
    found = asked(listening(LISTED, **PATIENT).port, said)
    assert found is not None and found[0] == expected[0]
    if expected[1] is not None:
        assert tuple(found[1][1:]) == expected[1]


def test_a_request_of_the_wrong_application_context_leaves_its_place_to_others(listening: Any, wait_for: Any) -> None:
    running = listening(max_associations=1, **PATIENT)
    for _ in range(3):
        found = asked(running.port, request(application=b"1.2.3"))
        assert found == (RJ, bytes([0, 1, 1, 2]))
        wait_for(lambda: running.listener.associations == 0, "the place is free")
    assert running.count("cxr_refused_associations_total", reason="application_context") == 3


def test_an_item_that_does_not_fit_is_logged_with_peer_item_and_offset(
    listening: Any, caplog: pytest.LogCaptureFixture
) -> None:
    running = listening(LISTED, **PATIENT)
    caplog.set_level("INFO", logger="listener")
    said = request()
    asked(running.port, said[:2] + struct.pack(">I", len(said) - 2) + said[6:] + b"\x21\0\0\x09")
    (line,) = [record.getMessage() for record in caplog.records if "bad_pdu" in record.getMessage()]
    for part in ("127.0.0.1", "21H", str(len(said))):
        assert part in line


@pytest.mark.parametrize(("sections", "calling"), [(LISTED, b"STRANGER"), (ELSEWHERE, b"MODALITY")])
def test_a_refused_peer_is_answered_before_its_request_has_come(
    listening: Any, sections: dict[str, Any], calling: bytes
) -> None:
    running = listening(sections, **PATIENT)
    with socket.create_connection(("127.0.0.1", running.port), timeout=120) as connection:
        connection.sendall(request(calling=calling, contexts=HUGE)[:74])
        assert answer(connection) == (RJ, bytes([0, 1, 1, 3]))
        assert association_threads() == 0


def test_peers_that_are_refused_cost_next_to_nothing(
    listening: Any, echoes: Callable[..., bool], wait_for: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of these requests once took two seconds of processor time, wrote 19,200 lines and left two threads."""
    running = listening({"peers": [*LISTED["peers"], {"ae_title": "ECHO", "network": "127.0.0.0/8"}]}, **PATIENT)
    assert echoes(running.port)
    wait_for(lambda: association_threads() == 0, "the echo's association has ended")
    caplog.set_level("INFO")
    before = time.process_time()
    with ExitStack() as stack:
        for number in range(60):
            said = request(calling=f"STRANGER{number % 3}".encode(), contexts=HUGE)
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=120))
            connection.sendall(said)
            assert answer(connection) == (RJ, bytes([0, 1, 1, 3]))
        assert association_threads() == 0
        assert len(caplog.records) == 3, "a line for each sender"
        # By the processor's time, ours and the peers'; 0.2 s alone on a machine. It was 100 s.
        assert time.process_time() - before < 15
        assert echoes(running.port)
    wait_for(lambda: len(running.listener.silent) == 0, "nothing is left of them")


def test_refused_peers_that_stay_are_cut_after_the_timeout(listening: Any, wait_for: Any) -> None:
    running = listening(LISTED, acse_timeout_s=1.5)
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=120)) for _ in range(5)
        ]
        for connection in connections:
            connection.sendall(request(calling=b"STRANGER", contexts=HUGE))
        for connection in connections:
            assert answer(connection) == (RJ, bytes([0, 1, 1, 3]))
            assert answer(connection) is None
        wait_for(lambda: len(running.listener.silent) == 0, "none is left after the timeout")


def test_a_listed_peer_s_huge_request_is_bounded(listening: Any, wait_for: Any, caplog: Any) -> None:
    running = listening(LISTED, **PATIENT)
    caplog.set_level("INFO")
    before = time.process_time()
    many = b"".join(item(0x5A, b"") for _ in range(15_000)) + b"".join(item(0x54, b"") for _ in range(1000))
    found = asked(running.port, request(contexts=HUGE, user=many))
    assert found is not None and found[0] == AC
    assert found[1].count(b"\x21\0\0") >= 128, "an answer for each context"
    assert time.process_time() - before < 10, "it was decoded whole"
    ours = [record for record in caplog.records if record.name.startswith("pynetdicom.") and record.levelno >= 30]
    assert len(ours) < 400
    wait_for(lambda: running.listener.associations == 0, "it is forgotten")


def test_a_request_whose_answer_takes_too_long_ends(listening: Any, wait_for: Any) -> None:
    """The association's thread gave up waiting for a request that was still being decoded, and waited for ever."""
    running = listening(LISTED, acse_timeout_s=0.02)
    contexts = b"".join(context(2 * n + 1, [IMPLICIT, *(f"1.2.{k}" for k in range(120))]) for n in range(128))
    with ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=120))
            connection.sendall(request(contexts=contexts))
        wait_for(lambda: association_threads() == 0, "every association has ended")
        wait_for(lambda: len(running.listener.silent) == 0, "every connection has ended")


@pytest.mark.parametrize("count", [1, 5, 6, 40, 73])
def test_a_peer_that_stops_within_its_first_bytes_is_aborted(listening: Any, wait_for: Any, count: int) -> None:
    running = listening(acse_timeout_s=1.0)
    with socket.create_connection(("127.0.0.1", running.port), timeout=120) as connection:
        connection.sendall(request()[:count])
        assert answer(connection) == (ABORT, bytes([0, 0, 2, 0]))
        connection.shutdown(socket.SHUT_WR)
        assert answer(connection) is None
    wait_for(lambda: len(running.listener.silent) == 0, "it is forgotten")


def test_a_peer_that_stops_within_its_request_is_aborted(listening: Any) -> None:
    running = listening(acse_timeout_s=1.0)
    with socket.create_connection(("127.0.0.1", running.port), timeout=120) as connection:
        connection.sendall(request()[:100])
        found = answer(connection)
        assert found is not None and found[0] == ABORT


def test_a_silent_peer_is_closed_without_a_word(listening: Any) -> None:
    running = listening(acse_timeout_s=1.0)
    with socket.create_connection(("127.0.0.1", running.port), timeout=120) as connection:
        assert answer(connection) is None


def test_a_stop_cuts_refused_peers_that_stay(listening: Any, wait_for: Any) -> None:
    running = listening(LISTED, **PATIENT)
    with socket.create_connection(("127.0.0.1", running.port), timeout=120) as connection:
        connection.sendall(request(calling=b"STRANGER"))
        assert answer(connection) == (RJ, bytes([0, 1, 1, 3]))
        running.listener.stop()
        assert answer(connection) is None
