"""Who is let in, and what happens to connections that say nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cxr.domain import Peer
from listener.admission import Admission, Peers, Rejection, Requestor, SilentConnections

SITE = Peers([Peer(ae_title="PACS", network="10.1.0.0/16"), Peer(ae_title="CT", network="2001:db8::/32")])


@pytest.mark.parametrize(
    ("title", "address", "allowed"),
    [
        ("PACS", "10.1.2.3", True),
        (" PACS ", "10.1.2.3", True),
        ("PACS\0\0", "10.1.2.3", True),
        ("\0 PACS \0 ", "10.1.2.3", True),
        ("PACS\0ABCDE\0 ", "10.1.2.3", True),
        ("CT\0PACS", "10.1.2.3", False),
        ("PACS\t", "10.1.2.3", False),
        ("PACS\n", "10.1.2.3", False),
        ("\rPACS", "10.1.2.3", False),
        ("PACS\x0b\x0c", "10.1.2.3", False),
        ("PACS\x1c", "10.1.2.3", False),
        ("PACS\x85", "10.1.2.3", False),
        ("PACS\xa0", "10.1.2.3", False),
        ("PA CS", "10.1.2.3", False),
        ("pacs", "10.1.2.3", False),
        ("PACS", "10.2.2.3", False),
        ("CT", "10.1.2.3", False),
        ("CT", "2001:db8::7", True),
        ("CT", "2001:db8::7%eth0", True),
        ("PACS", "::ffff:10.1.2.3", True),
        ("PACS", "2001:db8::7", False),
        ("", "10.1.2.3", False),
    ],
)
def test_a_peer_is_a_title_from_a_network(title: str, address: str, allowed: bool) -> None:
    assert (SITE.find(title, address) is not None) is allowed


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False)],
)
def test_without_peers_loopback_is_let_in(address: str, allowed: bool) -> None:
    assert (Peers([]).find("ANYBODY", address) is not None) is allowed


def _sender(calling: str, called: str, address: str) -> Requestor:
    return Requestor(address=address, calling_ae_title=calling, called_ae_title=called)


def _admission(*, limit: int = 2, is_full: bool = False) -> Admission:
    return Admission(Peers([]), "CXR", limit, lambda: is_full)


@pytest.mark.parametrize("title", ["", " ", "\0", "PACS\t", "P\\S", "PÄCS", "A" * 17])
def test_without_peers_the_calling_title_is_one_all_the_same(title: str) -> None:
    assert Peers([]).find(title, "127.0.0.1") is None


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        ("CXR", None),
        ("CXR\0 ", None),
        ("CXR\0junk", None),
        ("junk\0CXR", Rejection.CALLED_AE_TITLE),
        ("CXR\t", Rejection.CALLED_AE_TITLE),
        ("", Rejection.CALLED_AE_TITLE),
    ],
)
def test_the_called_title_is_padded_with_spaces_and_nuls_alone(called: str, expected: Rejection | None) -> None:
    assert _admission().screen(_sender("A", called, "127.0.0.1")) is expected


def test_screening_counts_nothing_and_sees_the_limit() -> None:
    admission = _admission(limit=1)
    assert [admission.screen(_sender("A", "CXR", "127.0.0.1")) for _ in range(3)] == [None] * 3
    admission.admit(_sender("A", "CXR", "127.0.0.1"))
    assert admission.screen(_sender("A", "CXR", "127.0.0.1")) is Rejection.TOO_MANY
    assert admission.open == 1


def test_admissions_are_counted_in_and_out() -> None:
    admission = _admission()
    peer = admission.admit(_sender("A", "CXR", "127.0.0.1"))
    assert isinstance(peer, Peer)
    assert [admission.admit(_sender("A", "CXR", "127.0.0.1")) for _ in range(2)] == [peer, Rejection.TOO_MANY]
    admission.leave(peer)
    assert admission.open == 1
    assert admission.admit(_sender("A", "CXR ", "127.0.0.1")) is peer


def test_a_peer_has_a_limit_of_its_own_and_leaves_room_for_others() -> None:
    busy = Peer(ae_title="CT", network="10.1.0.0/16", max_associations=2)
    other = Peer(ae_title="PACS", network="10.1.0.0/16")
    admission = Admission(Peers([busy, other]), None, 4, lambda: False)
    entered = [admission.admit(_sender("CT", "CXR", "10.1.2.3")) for _ in range(3)]
    assert entered == [busy, busy, Rejection.TOO_MANY_OF_PEER]
    assert [admission.admit(_sender("PACS", "CXR", "10.1.2.3")) for _ in range(3)] == [other, other, Rejection.TOO_MANY]
    admission.leave(other)
    assert admission.admit(_sender("CT", "CXR", "10.1.2.3")) is Rejection.TOO_MANY_OF_PEER
    admission.leave(busy)
    assert admission.admit(_sender("CT", "CXR", "10.1.2.3")) is busy


def test_the_reason_that_lasts_is_said_first() -> None:
    full = _admission(limit=1, is_full=True)
    assert full.admit(_sender("A", "CXR", "192.0.2.1")) is Rejection.CALLING_AE_TITLE
    assert full.admit(_sender("A", "OTHER", "127.0.0.1")) is Rejection.CALLED_AE_TITLE
    assert full.admit(_sender("A", "CXR", "127.0.0.1")) is Rejection.SPOOL_FULL
    assert full.open == 0


def test_nobody_is_let_in_while_stopping() -> None:
    admission = _admission()
    admission.stop()
    assert admission.admit(_sender("A", "CXR", "127.0.0.1")) is Rejection.STOPPING


def test_answers_are_those_of_the_standard() -> None:
    """PS3.8 Table 9-21: result, source, reason."""
    assert {rejection.code: rejection.answer for rejection in Rejection} == {
        "application_context": (1, 1, 2),
        "calling_ae_title": (1, 1, 3),
        "called_ae_title": (1, 1, 7),
        "spool_full": (2, 3, 1),
        "stopping": (2, 3, 1),
        "too_many": (2, 3, 2),
        "too_many_of_peer": (2, 3, 2),
    }


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(4)]
    yield made
    for pair in made:
        for end in pair:
            end.close()


def test_the_oldest_silent_connection_makes_room(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    silent = SilentConnections(2)
    for ours, _ in pairs[:3]:
        silent.add(ours)
    assert pairs[0][1].recv(1) == b""
    pairs[1][1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pairs[1][1].recv(1)
    silent.remove(pairs[0][0])
    silent.remove(pairs[1][0])
    assert len(silent) == 1


def test_all_silent_connections_are_cut_at_the_end(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    silent = SilentConnections(10)
    for ours, _ in pairs:
        silent.add(ours)
    pairs[0][0].close()  # ended by itself meanwhile
    silent.cut_all()
    assert all(theirs.recv(1) == b"" for _, theirs in pairs)
