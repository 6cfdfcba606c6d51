"""Overrides of pynetdicom's internals for associations that we request or accept commitment reports on.

The others stand in ``listener/transport/`` and ``config/pynetdicom_overrides.py``; the version is pinned in
pyproject.toml. Faults of 3.0.4 that are mended here:

* ``AssociationSocket._shutdown_socket`` does not close a socket that never connected: each call to a peer that is
  down leaves a descriptor to the garbage collector.
* Nagle's algorithm (RFC 9293 Section 3.7.4) is on: the data set of a small object waits 40 ms until the peer's kernel
  acknowledges the command before it; so does a response that the peer writes in two pieces.
* The decoder refuses A-ASSOCIATE PDUs that DCMTK and Orthanc accept, and a PDU may have any length.
* Reads and writes never time out: the upper layer's thread waits for a peer that stops within a PDU, stops reading
  or sends a byte now and then, and ``Association.kill`` waits for that thread without a bound.
* That thread is no daemon: the process does not exit while it waits.
* ``_is_paused``, whether the association's own thread waits, is a flag that other threads write too.
  ``DIMSEServiceProvider`` serves an N-EVENT-REPORT in a thread that marks the association as running though it
  waits: a release or request that waits for its pause then waits for ever. And a thread that was woken at the end
  of a request still counts as waiting at the start of the next, and may take the response to that.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import PDU
from pynetdicom.transport import AddressInformation, AssociationSocket, RequestHandler, ThreadedAssociationServer

from config.logs import get_logger
from config.pynetdicom_overrides import MAX_CONTROL_PDU_BYTES, acknowledge_at_once, cut
from cxr.dicom.associate_pdu import ASSOCIATE_RQ, MalformedPdu, normalise

END_S = 2.0
"""Time for the upper layer's thread to send its last PDU before its connection is cut, in seconds."""

_POLL_S = 0.01

log = get_logger(__name__)


class CallingEntity(AE):  # type: ignore[misc]
    """An application entity whose associations end within bounds."""

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None
    ) -> AssociationSocket:
        # AE.associate creates an Association itself; this is the last call before its thread starts
        _install_overrides(assoc)
        association_socket = _ClosingSocket(assoc, address=address)
        association_socket.tls_args = tls_args
        return association_socket


class ReportServer(ThreadedAssociationServer):  # type: ignore[misc]
    """Accepts associations for commitment reports; they end within bounds, whatever their peers do."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, ae: AE, address: tuple[str, int], evt_handlers: list[Any]) -> None:
        super().__init__(
            ae, address, ae.ae_title, ae.supported_contexts, evt_handlers=evt_handlers, request_handler=_ReportHandler
        )
        ae._servers.append(self)
        threading.Thread(target=self.serve_forever, args=(0.1,), name="reports", daemon=True).start()

    def close(self) -> None:
        """Stop accepting and cut open associations: a peer repeats a report that was not answered."""
        self.shutdown()
        for association in self.active_associations:
            cut(association.dul.socket.socket)


class _ReportHandler(RequestHandler):  # type: ignore[misc]
    def _create_association(self) -> Association:
        association = _install_overrides(super()._create_association())
        association.dul.socket.__class__ = _BoundedSocket
        return association


class _Checkpoint:
    """Gate at which an association's own thread waits while another thread uses the association."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._is_open = True
        self._is_waited_on = False
        self._may_pass = False

    def set(self) -> None:
        """Open the gate; a thread that waits passes once, also if ``clear`` follows at once.

        So it checks between two requests whether the peer has released or aborted the association.
        """
        with self._condition:
            self._is_open = True
            self._may_pass = self._is_waited_on
            self._condition.notify_all()

    def clear(self) -> None:
        """Close the gate for the next ``wait``."""
        with self._condition:
            self._is_open = False

    def wait(self) -> None:
        """Wait until the gate is open."""
        with self._condition:
            self._is_waited_on = True
            self._condition.wait_for(lambda: self._is_open or self._may_pass)
            self._is_waited_on = self._may_pass = False

    def holds(self) -> bool:
        """Whether the thread waits here until the next ``set``."""
        with self._condition:
            return self._is_waited_on and not self._is_open and not self._may_pass


class _BoundedAssociation(Association):  # type: ignore[misc]
    """An association with a bounded end, whose pause state is derived from its checkpoint."""

    _reactor_checkpoint: _Checkpoint

    def kill(self) -> None:
        """End the upper layer's thread; after `END_S` its connection is cut."""
        self._kill = True
        self._reactor_checkpoint.set()
        self.is_established = False
        deadline = time.monotonic() + END_S
        while self.dul.is_alive():
            if self.dul.state_machine.current_state == "Sta1":
                self.dul.kill_dul()
            if time.monotonic() > deadline:
                cut(self.dul.socket.socket)
            time.sleep(_POLL_S)

    @property
    def _is_paused(self) -> bool:
        """Whether the calling thread may use the association: no other does, or it has ended and use fails."""
        is_own = threading.current_thread() is self
        return is_own or self._kill or not self.is_alive() or self._reactor_checkpoint.holds()

    @_is_paused.setter
    def _is_paused(self, paused: bool) -> None:
        """Ignore the flag that pynetdicom's threads write; the checkpoint decides."""


def _install_overrides(assoc: Association) -> Association:
    """Replace the classes of an association and its upper layer before its thread starts."""
    assoc.__class__ = _BoundedAssociation
    assoc._reactor_checkpoint = _Checkpoint()
    assoc.dul.__class__ = _TolerantUpperLayer
    assoc.dul.daemon = True
    return assoc


class _TolerantUpperLayer(DULServiceProvider):  # type: ignore[misc]
    """Upper layer that decodes A-ASSOCIATE PDUs as tolerantly as other implementations."""

    malformed: MalformedPdu | None = None  # the A-ASSOCIATE PDU of the peer that ended the association
    is_ended_by_peer = False  # by an A-ABORT, or by closing the connection

    def _read_pdu_data(self) -> None:
        super()._read_pdu_data()
        with self.event_queue.mutex:
            self.is_ended_by_peer |= bool({"Evt16", "Evt17"} & set(self.event_queue.queue))

    def _decode_pdu(self, bytestream: bytearray) -> tuple[PDU, str]:
        # Of an A-ASSOCIATE-RQ (a peer with a commitment report) decode the transfer syntaxes that we support only.
        supported = self.assoc.acceptor.supported_contexts if bytestream[0] == ASSOCIATE_RQ else ()
        syntaxes = {str(uid) for context in supported for uid in context.transfer_syntax} or None
        try:
            normalised = normalise(bytestream, syntaxes)
        except MalformedPdu as error:
            self.malformed = error
            peer = self.assoc.remote
            log.warning(
                "bad_pdu",
                address=peer.get("address"),
                called_ae_title=self.assoc.acceptor.ae_title,
                calling_ae_title=self.assoc.requestor.ae_title,
                item=f"{error.item:02X}H",
                offset=error.offset,
            )
            raise
        decoded: tuple[PDU, str] = super()._decode_pdu(bytearray(normalised.encoded))
        return decoded


def _check_length(nr_bytes: int) -> None:
    """Refuse a PDU longer than `MAX_CONTROL_PDU_BYTES`; pynetdicom would read up to 4 GiB into memory.

    Raises
    ------
    OSError
        If it is longer; pynetdicom then ends the association.
    """
    if nr_bytes > MAX_CONTROL_PDU_BYTES:
        raise OSError("The peer announces a PDU that is longer than 1 MiB.")


class _BoundedSocket(AssociationSocket):  # type: ignore[misc]
    def recv(self, nr_bytes: int) -> bytearray:
        _check_length(nr_bytes)
        return bytearray(super().recv(nr_bytes))


class _ClosingSocket(AssociationSocket):  # type: ignore[misc]
    def _create_socket(self, address: AddressInformation) -> socket.socket:
        new_socket: socket.socket = super()._create_socket(address)
        new_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return new_socket

    def recv(self, nr_bytes: int) -> bytearray:
        _check_length(nr_bytes)
        acknowledge_at_once(self.socket)
        return bytearray(super().recv(nr_bytes))

    def _shutdown_socket(self) -> None:
        super()._shutdown_socket()
        if self.socket is not None:
            self.socket.close()
