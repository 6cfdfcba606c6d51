"""The connection of one association: large reads, each PDU under a deadline, waiting without polling."""

from __future__ import annotations

import select
import socket
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pynetdicom.transport import AssociationSocket

if TYPE_CHECKING:
    from listener.transport.association import ListenerAssociation


_DROP_BYTES = 65536


class Connection(AssociationSocket):
    """The connection: large reads, each PDU under a deadline, waiting without polling."""

    def __init__(self, assoc: ListenerAssociation, connection: socket.socket) -> None:
        super().__init__(assoc, client_socket=connection)
        self.pdu_timeout_s = assoc.timeouts.acse_s
        self._acknowledges_at_once = hasattr(socket, "TCP_QUICKACK")  # Linux; it does not last
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    @property
    def ready(self) -> bool:
        """Whether there is something to read, or the connection has ended."""
        return self.wait(None, 0.0)

    def wait(self, wake: socket.socket | None, timeout_s: float) -> bool:
        """Wait until there is something to read, or something comes through `wake`.

        The peer is first told what has arrived. The kernel would wait 40 ms for an answer to tell it with, and
        a peer whose connection has Nagle's algorithm (RFC 9293 Section 3.7.4; DCMTK's, as it comes) sends the
        end of a message no earlier.
        """
        if self.socket is None:
            return False
        if self._acknowledges_at_once:
            with suppress(OSError):  # the peer has gone: what follows says so
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        if wake is not None:
            self._poll.register(wake, select.POLLIN)
        ready = {descriptor for descriptor, _ in self._poll.poll(timeout_s * 1000)}
        if wake is not None:
            self._poll.unregister(wake)
        return self.socket is not None and self.socket.fileno() in ready

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes, or fewer if the peer closes the connection.

        Raises
        ------
        TimeoutError
            If they take longer than the deadline.
        """
        connection = self.socket
        received = bytearray(nr_bytes)
        count = 0
        deadline = time.monotonic() + self.pdu_timeout_s
        connection.settimeout(self.pdu_timeout_s)
        with memoryview(received) as view:
            while count < nr_bytes:
                got = connection.recv_into(view[count:])
                if got == 0:
                    break
                count += got
                if time.monotonic() > deadline:
                    raise TimeoutError
        del received[count:]
        return received

    def drop_some(self) -> bool:
        """Read what is there and forget it.

        Returns
        -------
        bool
            Whether there may be more; False: the peer has closed the connection.
        """
        try:
            return bool(self.socket.recv(_DROP_BYTES))
        except OSError:
            return False

    def cut(self) -> None:
        """End the connection from another thread; the one that reads from it sees its end."""
        connection = self.socket
        if connection is not None:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
