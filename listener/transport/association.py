"""One association: admission, negotiation, requests of the peer, end.

References
----------
DICOM PS3.8 Section 7 (association), PS3.7 Sections 9.1 and 9.3 (C-STORE, C-ECHO)
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dimse_messages import _MESSAGE_TYPES

from config.logs import get_logger
from cxr.dicom.associate_pdu import APPLICATION_CONTEXT
from cxr.domain import Peer
from listener import dimse_messages
from listener.admission import Rejection, Requestor
from listener.commitment_scp import RequestBody
from listener.dimse_messages import Command, ProtocolViolation
from listener.intake import StoreRequest
from listener.statuses import SUCCESS, UNRECOGNIZED_OPERATION, Status
from listener.transport.connection import Connection
from listener.transport.event_reports import EventReports
from listener.transport.messages import Messages, Request
from listener.transport.upper_layer import TICK_S, UpperLayer

if TYPE_CHECKING:
    from collections.abc import Collection

    from listener.transport.server import ListenerServer

_ACSE_TIMEOUTS = 5  # how many ACSE timeouts the association's thread waits for the upper layer

log = get_logger(__name__)


class _Acse(ACSE):
    """Negotiation that checks admission first."""

    def negotiate_association(self) -> None:
        try:
            rejection = self.assoc.admit()
            if rejection is None:
                super().negotiate_association()
                return
        except Exception as error:  # noqa: BLE001 (third-party decoding of a peer's bytes: each exception is a bad request)
            self.assoc.log_bad_pdu(error)
            self.assoc.abort(block=False)
        else:
            self.send_reject(*rejection.answer)
        self.assoc.kill()


class ListenerAssociation(Association):
    """One association, from the first byte of its A-ASSOCIATE-RQ to its end.

    Parameters
    ----------
    server
        The server that accepted the connection.
    connection
        The accepted socket.
    head
        Bytes already read from it: the beginning of the peer's first PDU.
    """

    def __init__(self, server: ListenerServer, connection: socket.socket, head: bytes) -> None:
        super().__init__(server.ae, MODE_ACCEPTOR)
        self._server = server
        self.timeouts = server.timeouts
        self._connection = connection
        self._peer: Peer | None = None  # after its admission
        self.acse = _Acse(self)
        self.dul = UpperLayer(self, server.ae.maximum_pdu_size)
        self.dimse = Messages(self)
        # The ARTIM timer limits the set-up; this thread waits longer, for two PDUs at the last moment.
        self.acse_timeout = _ACSE_TIMEOUTS * self.timeouts.acse_s
        self.dul.artim_timer.timeout = self.timeouts.acse_s
        self._event_reports = EventReports(self, server.service.commitments)
        self.set_socket(Connection(self, connection, head))

    @property
    def is_draining(self) -> bool:
        """Whether the service stops: the association then ends once no message is in flight."""
        return bool(self._server.draining.is_set())

    def admit(self) -> Rejection | None:
        """Request admission from the service; None: the association is admitted."""
        self._server.silent.remove(self._connection)
        request = self.requestor.primitive
        requestor = self._requestor_identity()
        decision = self._server.service.admit(requestor)
        if isinstance(decision, Peer):
            self._peer = decision  # `_end` calls `leave`, also after a rejection for another reason
            if self.dul.application_context != APPLICATION_CONTEXT:
                decision = Rejection.APPLICATION_CONTEXT
        if isinstance(decision, Rejection):
            self._server.service.record_refusal(decision.code, requestor)
            return decision
        self.dul.socket.pdu_timeout_s = self.timeouts.dimse_s
        self.acceptor.supported_contexts = self._server.service.supported_contexts(
            request.presentation_context_definition_list
        )
        return None

    def log_bad_pdu(self, error: Exception) -> None:
        """Log that a PDU of this peer can't be decoded."""
        self._server.service.log_bad_pdu(self._requestor_identity(), error)

    def acceptable_syntaxes(self) -> Collection[str]:
        """Return the transfer syntaxes that may be accepted in any context."""
        return self._server.service.transfer_syntaxes

    def count_as_silent(self) -> None:
        """Count the connection as silent: only its end is expected."""
        self._server.silent.add(self._connection)

    def kill(self) -> None:
        """End the upper layer's thread, cutting its connection after a time limit, then the association's own."""
        self._reactor_checkpoint.set()
        self._kill = True
        self.is_established = False
        self._is_paused = True
        deadline = time.monotonic() + _ACSE_TIMEOUTS * self.timeouts.acse_s
        while self.dul.is_alive() and not self.dul.stop_dul():
            if time.monotonic() > deadline:
                self.dul.kill_dul()
                self.dul.socket.cut()
            self.dul.join(TICK_S)

    def begin_request(self, context_id: int, command: Command) -> Request:
        """Prepare a request for its data set; called by the thread that reads.

        Raises
        ------
        ProtocolViolation
            If the command is unknown, or its presentation context was not accepted.
        """
        context = self._accepted_cx.get(context_id)
        if context is None or command.field not in _MESSAGE_TYPES:
            raise ProtocolViolation(
                "Received an unknown command, or one in a presentation context that was not accepted."
            )
        reception = None
        if command.field == dimse_messages.C_STORE_RQ and self._peer is not None:
            reception = self._server.service.receive(command, str(context.transfer_syntax[0]), self._peer)
        return Request(
            context_id, command, reception, RequestBody() if command.field == dimse_messages.N_ACTION_RQ else None
        )

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
            elif self._event_reports.is_due:
                self._event_reports.send_next()

    def _requestor_identity(self) -> Requestor:
        request = self.requestor.primitive
        return Requestor(
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
            self.dimse.finish_request()

    def _status_of(self, request: Request) -> Status | None:
        """Serve a request and return the status of its response; None: no response (to a response or C-CANCEL)."""
        command = request.command
        if command.field == dimse_messages.N_ACTION_RQ:
            context = self._accepted_cx[request.context_id]
            return self._event_reports.accept_request(
                request, str(context.transfer_syntax[0]), self.requestor.ae_title.strip()
            )
        if command.field == dimse_messages.N_EVENT_REPORT_RSP:
            self._event_reports.process_response(command)
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
        self.dimse.send_command(dimse_messages.write_response(request.command, status.code), request.context_id)

    def _end(self) -> None:
        """Release all resources, however the association ended."""
        self.dul.kill_dul()
        self.dul.socket.cut()
        if self.dul.is_alive():
            self.dul.join(TICK_S)
        self.dimse.discard()
        self._event_reports.hand_over()
        self.dul.close_wake_sockets()
        self._server.shutdown_request(self._connection)
        self._server.silent.remove(self._connection)
        self._server.associations.discard(self)
        if self._peer is not None:
            self._server.service.leave(self._peer)

    def _bind_defaults(self) -> None:
        """Bind the intervention handlers that pynetdicom needs, without those that log data of peers."""
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))
