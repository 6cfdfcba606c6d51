"""The first bytes of a connection: TLS handshake, the head of the A-ASSOCIATE-RQ, and what it is refused with.

Runs in the thread that accepted the connection, before an association with its two threads exists: a peer that is
refused costs 74 bytes and one comparison, however long its request is.

References
----------
DICOM PS3.8 Sections 9.3.1 (PDU header), 9.3.2 (A-ASSOCIATE-RQ), 9.3.4 (A-ASSOCIATE-RJ), 9.3.8 (A-ABORT)
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from contextlib import suppress

from config.pynetdicom_overrides import MAX_CONTROL_PDU_BYTES
from cxr.dicom.associate_pdu import ABORT, ASSOCIATE_RJ, ASSOCIATE_RQ, HEAD_BYTES, HEADER_BYTES, read_titles
from listener.admission import Rejection, Sender
from listener.service import Service, Timeouts

_DROP_BYTES = 65536
_ABORT_BY_PROVIDER = struct.pack(">BxIxxBB", ABORT, 4, 2, 0)


class Opening:
    """One new connection, until its association begins or it is refused; used by one thread.

    Parameters
    ----------
    connection
        Accepted; its TLS handshake, if it has one, is not done.
    address
        IP address of the peer.
    service
        What decides, and counts refusals.
    timeouts
        How long the peer may take.
    """

    def __init__(self, connection: socket.socket, address: str, service: Service, timeouts: Timeouts) -> None:
        self._connection = connection
        self._address = address
        self._service = service
        self._timeouts = timeouts

    def read_head(self) -> bytes | None:
        """Shake hands, read the first bytes, and ask the service whether this peer may go on.

        Returns
        -------
        bytes or None
            The first 6 bytes of a PDU, or the first 74 of an A-ASSOCIATE-RQ. None: the peer was refused, said
            nothing, or has gone; the connection is to be closed.
        """
        if not (self._shake_hands() and self._waits()):
            return None
        try:
            head = self._read_pdu_head()
        except TimeoutError:
            self._end_with(_ABORT_BY_PROVIDER)
            return None
        except OSError:
            return None
        if len(head) < HEAD_BYTES:
            return head or None
        titles = read_titles(head)
        sender = Sender(address=self._address, calling_ae_title=titles.calling, called_ae_title=titles.called)
        rejection = self._service.screen(sender)
        if rejection is None:
            return head
        self._service.refused(rejection.code, sender)
        self._end_with(_encoded(rejection))
        return None

    def _shake_hands(self) -> bool:
        if isinstance(self._connection, ssl.SSLSocket):
            self._connection.settimeout(self._timeouts.handshake_s)
            try:
                self._connection.do_handshake()
            except OSError:
                self._service.refused("tls_handshake", Sender(address=self._address))
                return False
        return True

    def _waits(self) -> bool:
        """Wait for the first byte; a peer that sends none is not answered."""
        if isinstance(self._connection, ssl.SSLSocket) and self._connection.pending():
            return True
        waiting = select.poll()
        waiting.register(self._connection, select.POLLIN)
        return bool(waiting.poll(self._timeouts.acse_s * 1000))

    def _read_pdu_head(self) -> bytes:
        deadline = time.monotonic() + self._timeouts.acse_s
        header = self._read(HEADER_BYTES, deadline)
        if len(header) < HEADER_BYTES:
            return header
        kind, length = struct.unpack(">BxI", header)
        if kind != ASSOCIATE_RQ or not HEAD_BYTES - HEADER_BYTES <= length <= MAX_CONTROL_PDU_BYTES:
            return header  # the association's thread aborts it
        return header + self._read(HEAD_BYTES - HEADER_BYTES, deadline)

    def _read(self, count: int, deadline: float) -> bytes:
        """Read so many bytes, or fewer if the peer closes the connection."""
        received = b""
        while len(received) < count:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._connection.settimeout(left_s)
            more = self._connection.recv(count - len(received))
            if not more:
                break
            received += more
        return received

    def _end_with(self, pdu: bytes) -> None:
        """Send a last PDU, then drop what the peer sends until it closes, or the time is over.

        If we closed first, with bytes of the peer unread, it would see a reset connection and never our answer.
        """
        deadline = time.monotonic() + self._timeouts.acse_s
        with suppress(OSError):
            self._connection.settimeout(self._timeouts.acse_s)
            self._connection.sendall(pdu)
            while (left_s := deadline - time.monotonic()) > 0:
                self._connection.settimeout(left_s)
                if not self._connection.recv(_DROP_BYTES):
                    break


def _encoded(rejection: Rejection) -> bytes:
    return struct.pack(">BxIxBBB", ASSOCIATE_RJ, 4, *rejection.answer)
