"""The socket of one association: large reads, a deadline for each PDU, waits without polling."""

from __future__ import annotations

import select
import socket
import ssl
import time
from typing import TYPE_CHECKING

from pynetdicom.transport import AssociationSocket

from config.pynetdicom_overrides import acknowledge_at_once, cut

if TYPE_CHECKING:
    from listener.transport.association import ListenerAssociation


_DROP_BYTES = 65536


class Connection(AssociationSocket):
    """The socket of one association.

    Parameters
    ----------
    assoc
        The association.
    connection
        The accepted socket.
    head
        Bytes of the peer that were already read from it.
    """

    def __init__(self, assoc: ListenerAssociation, connection: socket.socket, head: bytes = b"") -> None:
        super().__init__(assoc, client_socket=connection)
        self._head = head
        self.pdu_timeout_s = assoc.timeouts.acse_s
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    @property
    def ready(self) -> bool:
        """Whether data can be read, or the connection has ended."""
        return self.wait(None, 0.0)

    def wait(self, wake: socket.socket | None, timeout_s: float) -> bool:
        """Wait until data can be read, or `wake` receives a byte; return whether data can be read.

        Data that has arrived is acknowledged at once, before the wait.
        """
        if self.socket is None:
            return False
        if self._head:
            return True
        acknowledge_at_once(self.socket)
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        if wake is not None:
            self._poll.register(wake, select.POLLIN)
        ready = {descriptor for descriptor, _ in self._poll.poll(timeout_s * 1000)}
        if wake is not None:
            self._poll.unregister(wake)
        return self.socket is not None and self.socket.fileno() in ready

    def recv(self, nr_bytes: int) -> bytearray:
        """Read `nr_bytes`, or fewer if the peer closes the connection.

        Raises
        ------
        TimeoutError
            If they have not arrived before the deadline.
        """
        connection = self.socket
        received = bytearray(nr_bytes)
        count = min(len(self._head), nr_bytes)
        received[:count] = self._head[:count]
        self._head = self._head[count:]
        deadline = time.monotonic() + self.pdu_timeout_s
        connection.settimeout(self.pdu_timeout_s)
        with memoryview(received) as view:
            while count < nr_bytes:
                read = connection.recv_into(view[count:])
                if read == 0:
                    break
                count += read
                if time.monotonic() > deadline:
                    raise TimeoutError
        del received[count:]
        return received

    def discard_received(self) -> bool:
        """Read available data and discard it.

        Returns
        -------
        bool
            False: the peer has closed the connection.
        """
        try:
            return bool(self.socket.recv(_DROP_BYTES))
        except OSError:
            return False

    def cut(self) -> None:
        """Shut the connection down from another thread; the thread that reads sees its end."""
        cut(self.socket)
