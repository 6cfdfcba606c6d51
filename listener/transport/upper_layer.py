"""The upper layer: the thread of an association that reads and writes PDUs.

References
----------
DICOM PS3.8 Sections 9.2 (state machine; events and states are named as there) and 9.3 (PDUs)
"""

from __future__ import annotations

import queue
import select
import socket
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import StateMachine
from pynetdicom.pdu import PDU
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, A_RELEASE, P_DATA
from pynetdicom.timer import Timer

from config.pynetdicom_overrides import MAX_CONTROL_PDU_BYTES
from cxr.dicom.associate_pdu import APPLICATION_CONTEXT, normalise

if TYPE_CHECKING:
    from listener.transport.association import ListenerAssociation

TICK_S = 0.5
"""Interval between checks of the timers while there is no event, in seconds."""

_P_DATA_TF = 0x04
_PDU_TYPES = frozenset(range(0x01, 0x08))


class ArtimTimer(Timer):
    """Timer on the monotonic clock that has not expired once it is stopped.

    pynetdicom's uses the wall clock, and stays expired if stopped after its time, an event that only the states
    that wait for the timer can handle.

    Parameters
    ----------
    timeout
        Duration in seconds.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout)
        self._deadline: float | None = None

    def start(self) -> None:
        """Start, or start again."""
        self._deadline = time.monotonic() + self.timeout

    def stop(self) -> None:
        """Stop."""
        self._deadline = None

    @property
    def expired(self) -> bool:
        """Whether it runs and its time is over."""
        return self._deadline is not None and time.monotonic() > self._deadline


class _StateMachine(StateMachine):
    """State machine that wakes the association's thread, which polls in pynetdicom."""

    def do_action(self, event: str) -> None:
        super().do_action(event)
        self.dul.state_since = time.monotonic()
        is_over = self.current_state == "Sta1"  # after any event, for example an A-ABORT as first PDU
        if is_over:
            self.dul.to_user_queue.put(None)
            self.dul._kill_thread = True
        if is_over or event in {"Evt12", "Evt15", "Evt17", "Evt18"}:  # release, abort, closed, timed out
            self.dul.assoc.dimse.wake()


class Fragments:
    """Body of a P-DATA-TF PDU that passes pynetdicom's state machine undecoded."""

    def __init__(self, body: bytearray) -> None:
        self.body = memoryview(body)

    def to_primitive(self) -> Fragments:
        """Return itself in place of a primitive."""
        return self


class UpperLayer(DULServiceProvider):
    """The thread that reads and writes PDUs."""

    def __init__(self, assoc: ListenerAssociation, max_pdu_bytes: int) -> None:
        super().__init__(assoc)
        self.daemon = True
        self.state_machine = _StateMachine(self)
        self.artim_timer = ArtimTimer(assoc.timeouts.acse_s)
        self._max_pdu_bytes = max_pdu_bytes
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._active_at = time.monotonic()
        self._message_since: float | None = None
        self._is_waiting_for_close = False
        self.state_since = time.monotonic()
        self.application_context = APPLICATION_CONTEXT  # of the A-ASSOCIATE-RQ, once received

    def wake(self) -> None:
        """End the wait for the network: there is a PDU to send, reading continues, or the service stops."""
        with suppress(OSError):  # full: a wake-up is pending; closed: the thread has ended
            self._wake_sender.send(b"\x00")

    def close_wake_sockets(self) -> None:
        """Close the wake sockets after the end of the thread."""
        self._wake_receiver.close()
        self._wake_sender.close()

    def send_pdu(self, primitive: A_ASSOCIATE | A_RELEASE | A_ABORT | A_P_ABORT | P_DATA) -> None:
        """Queue a primitive, and wake the thread to send it."""
        super().send_pdu(primitive)
        self.wake()

    def kill_dul(self) -> None:
        """Request the end of the thread."""
        super().kill_dul()
        self.wake()

    def _send(self, pdu: PDU) -> None:
        super()._send(pdu)
        self._active_at = time.monotonic()  # the peer's silence counts from our PDU

    def _process_recv_primitive(self) -> bool:
        if not self.event_queue.empty():
            return True  # earlier events first; a primitive must not be queued twice
        if self.state_machine.current_state == "Sta13":
            with suppress(queue.Empty):  # the association has ended: drop PDUs that are queued
                self.to_provider_queue.get_nowait()
            return False
        return bool(super()._process_recv_primitive())

    def _is_transport_event(self) -> bool:
        if self.state_machine.current_state == "Sta13":
            self._wait_for_peer_to_close()
        elif self._has_message_timed_out() or self._has_negotiation_timed_out():
            self.event_queue.put("Evt19")
        elif self._should_close():
            self.socket.close()
        elif self.assoc.dimse.is_serving:
            self._wait_for_wake()
        elif self.socket.wait(self._wake_receiver, TICK_S):
            self._read_pdu_data()
            self._active_at = time.monotonic()
        self._drop_wakes()
        if self.state_machine.current_state != "Sta13":
            self._process_recv_primitive()
        return False

    def _wait_for_peer_to_close(self) -> None:
        """Wait for the peer to close, until the ARTIM timer expires; discard its data.

        A close with unread data of the peer would reset the connection, and the peer might not receive our
        A-ASSOCIATE-RJ, A-ABORT or A-RELEASE-RP.
        """
        if not self._is_waiting_for_close:
            self._is_waiting_for_close = True
            self.assoc.count_as_silent()
        if self.socket.wait(self._wake_receiver, TICK_S) and not self.socket.discard_received():
            self.socket.close()

    def _has_message_timed_out(self) -> bool:
        """Whether the peer is silent within a message, or takes too long over the message."""
        dimse, timeouts = self.assoc.dimse, self.assoc.timeouts
        if self.state_machine.current_state != "Sta6" or dimse.is_serving or not dimse.is_receiving:
            self._message_since = None
            return False
        now = time.monotonic()
        self._message_since = self._message_since or now
        return now - self._active_at > timeouts.dimse_s or now - self._message_since > timeouts.message_s

    def _has_negotiation_timed_out(self) -> bool:
        """Whether our answer to the A-ASSOCIATE-RQ takes too long; PS3.8 has no timer in Sta3."""
        waited_s = time.monotonic() - self.state_since
        return self.state_machine.current_state == "Sta3" and waited_s > self.assoc.timeouts.acse_s

    def _should_close(self) -> bool:
        """Whether no message is in flight, and the association was idle for too long or the service stops."""
        dimse = self.assoc.dimse
        if self.state_machine.current_state != "Sta6" or dimse.is_serving or not self.to_provider_queue.empty():
            return False
        if dimse.is_receiving:
            return False
        return self.assoc.is_draining or time.monotonic() - self._active_at > self.assoc.timeouts.idle_s

    def _wait_for_wake(self) -> None:
        poll = select.poll()
        poll.register(self._wake_receiver, select.POLLIN)
        poll.poll(TICK_S * 1000)

    def _drop_wakes(self) -> None:
        with suppress(OSError):
            while self._wake_receiver.recv(64):
                pass

    def _read_pdu_data(self) -> None:
        try:
            header = self.socket.recv(6)
            if len(header) < 6:
                self.event_queue.put("Evt17")
                return
            kind, length = struct.unpack(">BxL", header)
            limit = self._max_pdu_bytes if kind == _P_DATA_TF else MAX_CONTROL_PDU_BYTES
            if kind not in _PDU_TYPES or length > limit:
                self.event_queue.put("Evt19")
                return
            body = self.socket.recv(length)
        except TimeoutError:
            self.event_queue.put("Evt19")  # an incomplete PDU
            return
        except OSError:
            self.event_queue.put("Evt17")
            return
        if len(body) < length:
            self.event_queue.put("Evt17")
        elif kind == _P_DATA_TF:
            self._recv_pdu.put(Fragments(body))
            self.event_queue.put("Evt10")
        else:
            self._decode_other(header + body)

    def _decode_other(self, encoded: bytearray) -> None:
        try:
            normalised = normalise(encoded, self.assoc.acceptable_syntaxes())
            self.application_context = normalised.application_context
            pdu, event = self._decode_pdu(bytearray(normalised.encoded))
            primitive = pdu.to_primitive()  # here: an exception in the state machine would end the thread
        except Exception as error:  # noqa: BLE001 (third-party decoding of a peer's bytes: each exception is a bad PDU)
            self.assoc.log_bad_pdu(error)
            self.event_queue.put("Evt19")
            return
        pdu.to_primitive = lambda: primitive
        self._recv_pdu.put(pdu)
        self.event_queue.put(event)
