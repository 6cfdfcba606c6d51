"""The listener's connection: what it tells a peer before it waits for it."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from listener.transport.connection import Connection
from listener.transport.timeouts import Timeouts


@pytest.fixture
def talking() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection that has gone back and forth, so that Linux holds acknowledgements back."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with peer, ours:
        for _ in range(3):
            peer.sendall(b"request")
            ours.recv(64)
            ours.sendall(b"answer")
            peer.recv(64)
        yield peer, ours


def _connection(ours: socket.socket) -> Connection:
    """Wrap a socket as an association does that has not begun."""
    timeouts = Timeouts(handshake_s=10.0, acse_s=10.0, dimse_s=10.0, message_s=10.0, idle_s=10.0)
    return Connection(SimpleNamespace(timeouts=timeouts, dul=SimpleNamespace(event_queue=queue.Queue())), ours)


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux lets a program ask for it")
def test_what_has_arrived_is_acknowledged_before_waiting_for_more(talking: tuple[socket.socket, socket.socket]) -> None:
    peer, ours = talking
    connection = _connection(ours)
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 0
    peer.sendall(b"more")
    assert connection.wait(None, 60.0)
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1
    assert connection.recv(4) == b"more"


def test_a_connection_that_was_closed_has_nothing_to_read(talking: tuple[socket.socket, socket.socket]) -> None:
    _, ours = talking
    connection = _connection(ours)
    connection.cut()
    assert connection.wait(None, 60.0)  # its end
    assert connection.recv(1) == b""
