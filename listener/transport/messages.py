"""Assembly of DIMSE messages from fragments; the data set of a C-STORE is written to its reception.

References
----------
DICOM PS3.7 Section 6.3.1 (messages), PS3.8 Annex E (fragments)
"""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA

from listener import dimse_messages
from listener.commitment_scp import RequestBody
from listener.dimse_messages import Command, Fragment, ProtocolViolation
from listener.reception import Reception, TransferTooLong
from listener.transport.upper_layer import Fragments

if TYPE_CHECKING:
    from listener.transport.association import ListenerAssociation


_MAX_UNSERVED = 8  # requests in one PDU: each may have an open file until it is served


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a peer."""

    context_id: int
    command: Command
    reception: Reception | None  # of a C-STORE
    body: RequestBody | None = None  # of an N-ACTION


class Messages(DIMSEServiceProvider):
    """The messages of one association: assembles fragments to requests, which are served one by one."""

    def __init__(self, assoc: ListenerAssociation) -> None:
        super().__init__(assoc)
        self._command_bytes = bytearray()
        self._request: Request | None = None  # whose data set is arriving
        self._requests: queue.Queue[Request | None] = queue.Queue()
        self._lock = threading.Lock()
        self._unserved = 0

    @property
    def is_receiving(self) -> bool:
        """Whether a message has begun and is not complete."""
        return self._request is not None or bool(self._command_bytes)

    @property
    def is_serving(self) -> bool:
        """Whether a complete request has no response yet."""
        return self._unserved > 0

    def receive_primitive(self, primitive: Fragments) -> None:
        """Process the fragments of one P-DATA-TF PDU; called by the thread that reads."""
        try:
            for fragment in dimse_messages.read_fragments(primitive.body):
                self._add_fragment(fragment)
        except ProtocolViolation:
            self.dul.event_queue.put("Evt19")
        except TransferTooLong:
            self._request = None
            self.assoc.abort(block=False)

    def wake(self) -> None:
        """Wake the association's thread."""
        self._requests.put(None)

    def next_request(self, timeout_s: float) -> Request | None:
        """Wait for a complete request."""
        try:
            return self._requests.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def send_command(self, encoded: bytes, context_id: int) -> None:
        """Send a message that is a command set alone."""
        for fragment in dimse_messages.split_command(encoded, self.maximum_pdu_size):
            primitive = P_DATA()
            primitive.presentation_data_value_list.append((context_id, fragment))
            self.dul.send_pdu(primitive)

    def finish_request(self) -> None:
        """Count a request as served, so that reading continues."""
        with self._lock:
            self._unserved -= 1
        self.dul.wake()

    def discard(self) -> None:
        """Discard the receptions of requests that were not served."""
        unserved = [self._request]
        with suppress(queue.Empty):
            while True:
                unserved.append(self._requests.get_nowait())
        for request in unserved:
            if request is not None and request.reception is not None:
                request.reception.discard()

    def _add_fragment(self, fragment: Fragment) -> None:
        if fragment.is_command:
            self._add_command_fragment(fragment)
        elif self._request is None or fragment.context_id != self._request.context_id:
            raise ProtocolViolation("Received a fragment of a data set that no command announced.")
        else:
            sink = self._request.reception or self._request.body
            if sink is not None:
                sink.write(fragment.data)
            if fragment.is_last:
                self._queue_request(self._request)

    def _add_command_fragment(self, fragment: Fragment) -> None:
        self._command_bytes += fragment.data
        if self._request is not None or len(self._command_bytes) > dimse_messages.MAX_COMMAND_BYTES:
            raise ProtocolViolation("Received a command within another message, or one that is too long.")
        if self._unserved >= _MAX_UNSERVED:
            raise ProtocolViolation("Received more than 8 requests without waiting for a response.")
        if fragment.is_last:
            command = dimse_messages.read_command(bytes(self._command_bytes))
            self._command_bytes.clear()
            request = self.assoc.begin_request(fragment.context_id, command)
            if command.has_data_set:
                self._request = request
            else:
                self._queue_request(request)

    def _queue_request(self, request: Request) -> None:
        self._request = None
        with self._lock:
            self._unserved += 1
        self._requests.put(request)
