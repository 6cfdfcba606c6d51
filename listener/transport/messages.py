"""Puts messages together; a C-STORE's data set goes to its reception, any other's nowhere.

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

from listener import dimse_messages
from listener.commitment_scp import Body
from listener.dimse_messages import Command, Fragment, ProtocolViolation
from listener.reception import PeerOverran, Reception
from listener.transport.upper_layer import Fragments

if TYPE_CHECKING:
    from listener.transport.association import ListenerAssociation


_MAX_UNSERVED = 8  # requests in one PDU: each may hold an open file until it is served


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a peer."""

    context_id: int
    command: Command
    reception: Reception | None  # of a C-STORE
    body: Body | None = None  # of an N-ACTION


class Messages(DIMSEServiceProvider):
    """The messages of one association: fragments in, one request after the other out."""

    def __init__(self, assoc: ListenerAssociation) -> None:
        super().__init__(assoc)
        self._command_bytes = bytearray()
        self._request: Request | None = None  # its data set is coming
        self._requests: queue.Queue[Request | None] = queue.Queue()
        self._lock = threading.Lock()
        self._unserved = 0

    @property
    def is_receiving(self) -> bool:
        """Whether a message has begun and is not complete."""
        return self._request is not None or bool(self._command_bytes)

    @property
    def is_serving(self) -> bool:
        """Whether a complete request waits for its answer."""
        return self._unserved > 0

    def receive_primitive(self, primitive: Fragments) -> None:
        """Take what one P-DATA-TF PDU carries, in the thread that reads."""
        try:
            for fragment in dimse_messages.read_fragments(primitive.body):
                self._take(fragment)
        except ProtocolViolation:
            self.dul.event_queue.put("Evt19")
        except PeerOverran:
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

    def served(self) -> None:
        """Go on reading: the answer is on its way."""
        with self._lock:
            self._unserved -= 1
        self.dul.wake()

    def discard(self) -> None:
        """Remove what was received of objects that nobody will be told about."""
        left = [self._request]
        with suppress(queue.Empty):
            while True:
                left.append(self._requests.get_nowait())
        for request in left:
            if request is not None and request.reception is not None:
                request.reception.discard()

    def _take(self, fragment: Fragment) -> None:
        if fragment.is_command:
            self._take_command(fragment)
        elif self._request is None or fragment.context_id != self._request.context_id:
            raise ProtocolViolation("Received a fragment of a data set that no command announced.")
        else:
            taker = self._request.reception or self._request.body
            if taker is not None:
                taker.write(fragment.data)
            if fragment.is_last:
                self._finish(self._request)

    def _take_command(self, fragment: Fragment) -> None:
        self._command_bytes += fragment.data
        if self._request is not None or len(self._command_bytes) > dimse_messages.MAX_COMMAND_BYTES:
            raise ProtocolViolation("Received a command within another message, or one that is too long.")
        if self._unserved >= _MAX_UNSERVED:
            raise ProtocolViolation("Received more requests at once than are answered one after the other.")
        if fragment.is_last:
            command = dimse_messages.read_command(bytes(self._command_bytes))
            self._command_bytes.clear()
            request = self.assoc.begin_request(fragment.context_id, command)
            if command.has_data_set:
                self._request = request
            else:
                self._finish(request)

    def _finish(self, request: Request) -> None:
        self._request = None
        with self._lock:
            self._unserved += 1
        self._requests.put(request)
