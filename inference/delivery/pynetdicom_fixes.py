"""What pynetdicom leaves open on the sides that we call from and take reports on: its internals, overridden here alone.

The version is pinned in pyproject.toml. In 3.0.4

* ``AssociationSocket._shutdown_socket`` does not close a socket that never connected, so that every call
  to a peer that is down leaves a descriptor to the garbage collector;
* a connection has Nagle's algorithm (RFC 9293 Section 3.7.4), so that the data set of a small object waits 40 ms until
  the peer's kernel acknowledges the command before it; and the peer's answer does, where it is written in two pieces;
* the decoder refuses what DCMTK and Orthanc accept in the answer of a peer, and a PDU may have any length;
* no read and no write ever times out, so that a peer that stops in the middle of a PDU, stops to read, or
  trickles, is waited for by the thread that talks to it; and whoever ends the association waits for that thread,
  without a bound;
* that thread is no daemon: a process does not end while it waits;
* whether the association's own thread waits is a flag that others write too. ``DIMSEServiceProvider`` serves
  an N-EVENT-REPORT in a thread that marks it as running though it waits: a release or a request that waits
  for it to pause then waits for ever. And one that was woken at the end of a request still counts as
  waiting at the start of the next, and may take the answer to that.
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
"""How long the thread that talks to a peer has for its last words, before its connection is cut."""

_POLL_S = 0.01

log = get_logger(__name__)


class CallingEntity(AE):  # type: ignore[misc]
    """An application entity whose calls end."""

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None
    ) -> AssociationSocket:
        # AE.associate makes its own class, and this is the last moment before the association's thread starts
        _bound(assoc)
        made = _ClosingSocket(assoc, address=address)
        made.tls_args = tls_args
        return made


class ReportServer(ThreadedAssociationServer):  # type: ignore[misc]
    """Accepts associations that end, whatever their peers do."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, ae: AE, address: tuple[str, int], evt_handlers: list[Any]) -> None:
        super().__init__(
            ae, address, ae.ae_title, ae.supported_contexts, evt_handlers=evt_handlers, request_handler=_ReportHandler
        )
        ae._servers.append(self)
        threading.Thread(target=self.serve_forever, args=(0.1,), name="reports", daemon=True).start()

    def close(self) -> None:
        """Accept nothing more, and cut what is open: a peer whose report was not answered repeats it."""
        self.shutdown()
        for association in self.active_associations:
            cut(association.dul.socket.socket)


class _ReportHandler(RequestHandler):  # type: ignore[misc]
    def _create_association(self) -> Association:
        association = _bound(super()._create_association())
        association.dul.socket.__class__ = _BoundedSocket
        return association


class _Checkpoint:
    """Where an association's own thread waits while another one talks to the peer; knows whether it does."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._is_open = True
        self._is_waited_on = False
        self._may_pass = False

    def set(self) -> None:
        """Let the association's thread go on; one that waits does so, whatever follows.

        Between two requests it looks once whether the peer has released or aborted the association.
        """
        with self._condition:
            self._is_open = True
            self._may_pass = self._is_waited_on
            self._condition.notify_all()

    def clear(self) -> None:
        """Hold the association's thread when it comes here next."""
        with self._condition:
            self._is_open = False

    def wait(self) -> None:
        """Wait here until it is open."""
        with self._condition:
            self._is_waited_on = True
            self._condition.wait_for(lambda: self._is_open or self._may_pass)
            self._is_waited_on = self._may_pass = False

    def holds(self) -> bool:
        """Whether the thread waits here, and goes on waiting until ``set``."""
        with self._condition:
            return self._is_waited_on and not self._is_open and not self._may_pass


class _BoundedAssociation(Association):  # type: ignore[misc]
    """Its end has a bound, and where its own thread waits is what tells whether that waits."""

    _reactor_checkpoint: _Checkpoint

    def kill(self) -> None:
        """End the thread that talks to the peer; one that does not come back from that finds its connection cut."""
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
        """Whether whoever asks may talk to the peer: nobody else does, or it has ended and the talk fails."""
        is_own = threading.current_thread() is self
        return is_own or self._kill or not self.is_alive() or self._reactor_checkpoint.holds()

    @_is_paused.setter
    def _is_paused(self, paused: bool) -> None:
        """Leave it to the checkpoint, whatever pynetdicom's threads write."""


def _bound(assoc: Association) -> Association:
    """Bound the ends of an association whose thread has not started."""
    assoc.__class__ = _BoundedAssociation
    assoc._reactor_checkpoint = _Checkpoint()
    assoc.dul.__class__ = _TolerantUpperLayer
    assoc.dul.daemon = True
    return assoc


class _TolerantUpperLayer(DULServiceProvider):  # type: ignore[misc]
    """Reads A-ASSOCIATE PDUs as other implementations do."""

    malformed: MalformedPdu | None = None  # of the peer's, which ended the association
    is_ended_by_peer = False  # by an A-ABORT, or by closing the connection

    def _read_pdu_data(self) -> None:
        super()._read_pdu_data()
        with self.event_queue.mutex:
            self.is_ended_by_peer |= bool({"Evt16", "Evt17"} & set(self.event_queue.queue))

    def _decode_pdu(self, bytestream: bytearray) -> tuple[PDU, str]:
        # Of a request, which only peers with a commitment report make, the syntaxes that we know are decoded.
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
    """Refuse a PDU that is longer than any we take; pynetdicom would read up to 4 GiB into memory.

    Raises
    ------
    OSError
        If it is; pynetdicom ends the association then.
    """
    if nr_bytes > MAX_CONTROL_PDU_BYTES:
        raise OSError("The peer announces a PDU that is longer than 1 MiB.")


class _BoundedSocket(AssociationSocket):  # type: ignore[misc]
    def recv(self, nr_bytes: int) -> bytearray:
        _check_length(nr_bytes)
        return bytearray(super().recv(nr_bytes))


class _ClosingSocket(AssociationSocket):  # type: ignore[misc]
    def _create_socket(self, address: AddressInformation) -> socket.socket:
        made: socket.socket = super()._create_socket(address)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def recv(self, nr_bytes: int) -> bytearray:
        _check_length(nr_bytes)
        acknowledge_at_once(self.socket)
        return bytearray(super().recv(nr_bytes))

    def _shutdown_socket(self) -> None:
        super()._shutdown_socket()
        if self.socket is not None:
            self.socket.close()
