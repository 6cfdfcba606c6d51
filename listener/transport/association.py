"""One association: admission, negotiation, the requests of its peer, its end.

References
----------
DICOM PS3.8 Section 7 (association), PS3.7 Sections 9.1 and 9.3 (C-STORE, C-ECHO)
"""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING

from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dimse_messages import _MESSAGE_TYPES, _MSG_TO_PRIMITVE
from pynetdicom.dimse_primitives import C_ECHO, C_STORE, N_ACTION, DIMSEPrimitive

from config.logs import get_logger
from cxr.dicom.associate_pdu import APPLICATION_CONTEXT
from cxr.domain import Peer
from listener import dimse_messages
from listener.admission import Rejection, Sender
from listener.commitment_scp import Body
from listener.dimse_messages import Command, ProtocolViolation
from listener.service import StoreRequest
from listener.statuses import SUCCESS, UNRECOGNIZED_OPERATION, Status
from listener.transport.connection import Connection
from listener.transport.messages import Messages, Request
from listener.transport.reporting import Reporting
from listener.transport.upper_layer import TICK_S, UpperLayer

if TYPE_CHECKING:
    from collections.abc import Collection

    from listener.transport.server import ListenerServer

_CONFORMANT_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")  # PS3.5 Section 9.1

_PATIENCE = 5

log = get_logger(__name__)


class _Acse(ACSE):
    """Asks the service before it negotiates."""

    def negotiate_association(self) -> None:
        try:
            rejection = self.assoc.ask_admission()
            if rejection is None:
                super().negotiate_association()
                return
        except Exception as error:  # noqa: BLE001 (third-party handling of a peer's bytes: any of them is a bad request)
            self.assoc.report_bad_pdu(error)
            self.assoc.abort(block=False)
        else:
            self.send_reject(*rejection.answer)
        self.assoc.kill()


class ListenerAssociation(Association):
    """One association, from the first byte of its A-ASSOCIATE-RQ to its end.

    Parameters
    ----------
    server
        What accepted the connection.
    connection
        The accepted socket.
    head
        What was read from it: the beginning of the peer's first PDU.
    """

    def __init__(self, server: ListenerServer, connection: socket.socket, head: bytes) -> None:
        super().__init__(server.ae, MODE_ACCEPTOR)
        self._server = server
        self.timeouts = server.timeouts
        self._connection = connection
        self._peer: Peer | None = None  # once it was admitted
        self.acse = _Acse(self)
        self.dul = UpperLayer(self, server.ae.maximum_pdu_size)
        self.dimse = Messages(self)
        # The ARTIM timer decides; this thread waits for what comes of it, over two PDUs at the last moment.
        self.acse_timeout = _PATIENCE * self.timeouts.acse_s
        self.dul.artim_timer.timeout = self.timeouts.acse_s
        self._reporting = Reporting(self, server.service.commitments)
        self.set_socket(Connection(self, connection, head))

    @property
    def is_draining(self) -> bool:
        """Whether the service stops: the association ends as soon as nothing is in flight."""
        return bool(self._server.draining.is_set())

    def ask_admission(self) -> Rejection | None:
        """Ask the service whether this peer may open an association now."""
        self._server.silent.remove(self._connection)
        request = self.requestor.primitive
        sender = self._sender()
        admitted = self._server.service.enter(sender)
        if isinstance(admitted, Peer):
            self._peer = admitted  # `leave` follows, also where the request is refused for another reason
            if self.dul.application_context != APPLICATION_CONTEXT:
                admitted = Rejection.APPLICATION_CONTEXT
        if isinstance(admitted, Rejection):
            self._server.service.refused(admitted.code, sender)
            return admitted
        self.dul.socket.pdu_timeout_s = self.timeouts.dimse_s
        self.acceptor.supported_contexts = self._server.service.supported_contexts(
            request.presentation_context_definition_list
        )
        return None

    def report_bad_pdu(self, error: Exception) -> None:
        """Log that a PDU of this peer can't be read, and where."""
        self._server.service.not_understood(self._sender(), error)

    def acceptable_syntaxes(self) -> Collection[str]:
        """List the transfer syntaxes that may be accepted in any context."""
        return self._server.service.transfer_syntaxes

    def wait_aside(self) -> None:
        """Count the connection among the silent ones: nothing is expected of it but its end."""
        self._server.silent.add(self._connection)

    def kill(self) -> None:
        """End the association's thread, after the one that talks to the network; that one's end has a bound."""
        self._reactor_checkpoint.set()
        self._kill = True
        self.is_established = False
        self._is_paused = True
        deadline = time.monotonic() + _PATIENCE * self.timeouts.acse_s
        while self.dul.is_alive() and not self.dul.stop_dul():
            if time.monotonic() > deadline:
                self.dul.kill_dul()
                self.dul.socket.cut()
            self.dul.join(TICK_S)

    def begin_request(self, context_id: int, command: Command) -> Request:
        """Prepare for a request's data set, in the thread that reads.

        Raises
        ------
        ProtocolViolation
            If the request comes under a context that was not accepted.
        """
        context = self._accepted_cx.get(context_id)
        if context is None or command.field not in _MESSAGE_TYPES:
            raise ProtocolViolation("Received an unknown command, or one under a context that was not accepted.")
        reception = None
        if command.field == dimse_messages.C_STORE_RQ and self._peer is not None:
            reception = self._server.service.receive(command, str(context.transfer_syntax[0]), self._peer)
        return Request(context_id, command, reception, Body() if command.field == dimse_messages.N_ACTION_RQ else None)

    def run_reactor(self) -> None:
        """Run the association's thread from its start to its end."""
        self._server.associations.add(self)
        try:
            super().run_reactor()
        except Exception as error:
            log.exception("association_failed", exc_info=error)
        finally:
            self._end()

    def _run_reactor(self) -> None:
        while not self._kill:
            request = self.dimse.next_request(TICK_S)
            if request is not None:
                self._serve(request)
            elif self._has_ended():
                self.kill()
            elif self._reporting.is_due:
                self._reporting.send_next()

    def _sender(self) -> Sender:
        request = self.requestor.primitive
        return Sender(
            address=self.requestor.address,
            calling_ae_title=request.calling_ae_title if request else "",
            called_ae_title=request.called_ae_title if request else "",
        )

    def _has_ended(self) -> bool:
        if self.is_established and self.acse.is_release_requested():
            self.acse.send_release(is_response=True)
            self.is_released = True
            return True
        return self.acse.is_aborted() or self.dul._kill_thread or not self.dul.is_alive()

    def _serve(self, request: Request) -> None:
        try:
            status = self._status_of(request)
            if status is not None and self.is_established:
                self._answer(request, status)
        finally:
            self.dimse.served()

    def _status_of(self, request: Request) -> Status | None:
        """Do what is asked; None: nothing is to be answered (a response, or a C-CANCEL)."""
        command = request.command
        if command.field == dimse_messages.N_ACTION_RQ:
            context = self._accepted_cx[request.context_id]
            return self._reporting.take(request, str(context.transfer_syntax[0]), self.requestor.ae_title.strip())
        if command.field == dimse_messages.N_EVENT_REPORT_RSP:
            self._reporting.answered(command)
        if request.reception is not None:
            context = self._accepted_cx[request.context_id]
            try:
                return self._server.service.store(
                    StoreRequest(
                        command=command,
                        abstract_syntax_uid=str(context.abstract_syntax),
                        transfer_syntax_uid=str(context.transfer_syntax[0]),
                        calling_ae_title=self.requestor.ae_title.strip(),
                        reception=request.reception,
                    )
                )
            finally:
                request.reception.discard()
        if command.field == dimse_messages.C_CANCEL_RQ or command.field & dimse_messages.RESPONSE:
            return None
        return SUCCESS if command.field == dimse_messages.C_ECHO_RQ else UNRECOGNIZED_OPERATION

    def _answer(self, request: Request, status: Status) -> None:
        response = _response_to(request.command)
        response.MessageIDBeingRespondedTo = request.command.message_id
        response.Status = status.code
        if isinstance(response, C_STORE | C_ECHO | N_ACTION):
            response.AffectedSOPClassUID = _conformant(request.command.sop_class_uid)
        if isinstance(response, C_STORE | N_ACTION):
            response.AffectedSOPInstanceUID = _conformant(request.command.sop_instance_uid)
        self.dimse.send_msg(response, request.context_id)

    def _end(self) -> None:
        """Leave nothing behind, whatever ended the association."""
        self.dul.kill_dul()
        self.dul.socket.cut()
        if self.dul.is_alive():
            self.dul.join(TICK_S)
        self.dimse.discard()
        self._reporting.leave()
        self.dul.free()
        self._server.shutdown_request(self._connection)
        self._server.silent.remove(self._connection)
        self._server.associations.discard(self)
        if self._peer is not None:
            self._server.service.leave(self._peer)

    def _bind_defaults(self) -> None:
        """Bind what pynetdicom needs, and none of its handlers that log what peers send."""
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))


def _response_to(command: Command) -> DIMSEPrimitive:
    message_class = _MESSAGE_TYPES[command.field][1]
    return _MSG_TO_PRIMITVE[message_class.__name__.removesuffix("_RQ")]()


def _conformant(uid: str) -> str | None:
    """Leave out an identifier that pydicom would warn about; it is optional in a response."""
    return uid if _CONFORMANT_UID.fullmatch(uid) else None
