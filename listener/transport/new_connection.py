"""A new connection before its association: TLS handshake, head of the A-ASSOCIATE-RQ, early rejection.

Runs in one thread of the connection, before an association with its two threads exists: a rejected peer costs
74 bytes and one comparison, however long its request is.

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
from listener.admission import Rejection, Requestor
from listener.service import StorageService
from listener.transport.timeouts import Timeouts

_DROP_BYTES = 65536
_ABORT_BY_PROVIDER = struct.pack(">BxIxxBB", ABORT, 4, 2, 0)


class NewConnection:
    """One new connection until its association begins or is rejected; used by one thread.

    Parameters
    ----------
    connection
        The accepted socket, before the TLS handshake of a TLS connection.
    address
        IP address of the peer.
    service
        Decides about rejections, and counts them.
    timeouts
        Time limits for the peer.
    """

    def __init__(self, connection: socket.socket, address: str, service: StorageService, timeouts: Timeouts) -> None:
        self._connection = connection
        self._address = address
        self._service = service
        self._timeouts = timeouts

    def read_head(self) -> bytes | None:
        """Do the TLS handshake, read the first bytes, and reject the peer if the service does.

        Returns
        -------
        bytes or None
            The first 6 bytes of a PDU, or the first 74 of an A-ASSOCIATE-RQ. None: the peer was rejected, sent
            nothing, or has closed; close the connection.
        """
        if not (self._do_tls_handshake() and self._wait_for_first_byte()):
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
        requestor = Requestor(address=self._address, calling_ae_title=titles.calling, called_ae_title=titles.called)
        rejection = self._service.screen(requestor)
        if rejection is None:
            return head
        self._service.record_refusal(rejection.code, requestor)
        self._end_with(_encoded(rejection))
        return None

    def _do_tls_handshake(self) -> bool:
        if isinstance(self._connection, ssl.SSLSocket):
            self._connection.settimeout(self._timeouts.handshake_s)
            try:
                self._connection.do_handshake()
            except OSError:
                self._service.record_refusal("tls_handshake", Requestor(address=self._address))
                return False
        return True

    def _wait_for_first_byte(self) -> bool:
        """Wait for the first byte; a peer that sends none gets no PDU."""
        if isinstance(self._connection, ssl.SSLSocket) and self._connection.pending():
            return True
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return bool(poll.poll(self._timeouts.acse_s * 1000))

    def _read_pdu_head(self) -> bytes:
        deadline = time.monotonic() + self._timeouts.acse_s
        header = self._read(HEADER_BYTES, deadline)
        if len(header) < HEADER_BYTES:
            return header
        kind, length = struct.unpack(">BxI", header)
        if kind != ASSOCIATE_RQ or not HEAD_BYTES - HEADER_BYTES <= length <= MAX_CONTROL_PDU_BYTES:
            return header  # the association aborts it
        return header + self._read(HEAD_BYTES - HEADER_BYTES, deadline)

    def _read(self, count: int, deadline: float) -> bytes:
        """Read `count` bytes, or fewer if the peer closes the connection."""
        received = b""
        while len(received) < count:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise TimeoutError
            self._connection.settimeout(remaining_s)
            data = self._connection.recv(count - len(received))
            if not data:
                break
            received += data
        return received

    def _end_with(self, pdu: bytes) -> None:
        """Send a last PDU, then discard the peer's data until it closes or the time limit.

        A close with unread data of the peer would reset the connection, and the peer might not receive the PDU.
        """
        deadline = time.monotonic() + self._timeouts.acse_s
        with suppress(OSError):
            self._connection.settimeout(self._timeouts.acse_s)
            self._connection.sendall(pdu)
            while (remaining_s := deadline - time.monotonic()) > 0:
                self._connection.settimeout(remaining_s)
                if not self._connection.recv(_DROP_BYTES):
                    break


def _encoded(rejection: Rejection) -> bytes:
    return struct.pack(">BxIxBBB", ASSOCIATE_RJ, 4, *rejection.answer)
