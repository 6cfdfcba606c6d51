"""The thread of an association that reads and writes PDUs.

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
"""How often timers are looked at while nothing happens."""

_P_DATA_TF = 0x04
_PDU_TYPES = frozenset(range(0x01, 0x08))


class ArtimTimer(Timer):
    """A timer that has not expired when it was stopped, and that no change of the clock touches.

    pynetdicom's goes by the wall clock; and one that was stopped too late stays expired, which no state
    but those that wait for it can take.

    Parameters
    ----------
    timeout
        In seconds.
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
        """Whether it runs, and its time is over."""
        return self._deadline is not None and time.monotonic() > self._deadline


class _StateMachine(StateMachine):
    """Wakes the association's thread where pynetdicom lets it poll."""

    def do_action(self, event: str) -> None:
        super().do_action(event)
        self.dul.state_since = time.monotonic()
        is_over = self.current_state == "Sta1"  # whatever brought it there: an A-ABORT that comes first, for one
        if is_over:
            self.dul.to_user_queue.put(None)
            self.dul._kill_thread = True
        if is_over or event in {"Evt12", "Evt15", "Evt17", "Evt18"}:  # release, abort, closed, timed out
            self.dul.assoc.dimse.wake()


class Fragments:
    """What a P-DATA-TF PDU carries, on its way through pynetdicom's state machine."""

    def __init__(self, body: bytearray) -> None:
        self.body = memoryview(body)

    def to_primitive(self) -> Fragments:
        """Pass for the primitive too."""
        return self


class UpperLayer(DULServiceProvider):
    """The thread that talks to the network."""

    def __init__(self, assoc: ListenerAssociation, max_pdu_bytes: int) -> None:
        super().__init__(assoc)
        self.daemon = True
        self.state_machine = _StateMachine(self)
        self.artim_timer = ArtimTimer(assoc.timeouts.acse_s)
        self._max_pdu_bytes = max_pdu_bytes
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._heard_at = time.monotonic()
        self._message_since: float | None = None
        self._is_lingering = False
        self.state_since = time.monotonic()
        self.application_context = APPLICATION_CONTEXT  # of the A-ASSOCIATE-RQ, once it has come

    def wake(self) -> None:
        """End the wait for the network: something is to be sent, or read again, or the service stops."""
        with suppress(OSError):  # full: it wakes up anyway; closed: it has ended
            self._wake_sender.send(b"\x00")

    def free(self) -> None:
        """Close what the thread used, after it ended."""
        self._wake_receiver.close()
        self._wake_sender.close()

    def send_pdu(self, primitive: A_ASSOCIATE | A_RELEASE | A_ABORT | A_P_ABORT | P_DATA) -> None:
        """Queue what is to be sent, and wake the thread that sends it."""
        super().send_pdu(primitive)
        self.wake()

    def kill_dul(self) -> None:
        """Let the thread end."""
        super().kill_dul()
        self.wake()

    def _send(self, pdu: PDU) -> None:
        super()._send(pdu)
        self._heard_at = time.monotonic()  # the peer's silence counts from our answer

    def _process_recv_primitive(self) -> bool:
        if not self.event_queue.empty():
            return True  # first things first; a primitive must not be announced twice
        if self.state_machine.current_state == "Sta13":
            with suppress(queue.Empty):  # the association is over: nothing of it may be sent any more
                self.to_provider_queue.get_nowait()
            return False
        return bool(super()._process_recv_primitive())

    def _is_transport_event(self) -> bool:
        if self.state_machine.current_state == "Sta13":
            self._linger()
        elif self._breaks_off() or self._waits_in_vain():
            self.event_queue.put("Evt19")
        elif self._is_to_end():
            self.socket.close()
        elif self.assoc.dimse.is_serving:
            self._wait_for_wake()
        elif self.socket.wait(self._wake_receiver, TICK_S):
            self._read_pdu_data()
            self._heard_at = time.monotonic()
        self._drop_wakes()
        if self.state_machine.current_state != "Sta13":
            self._process_recv_primitive()
        return False

    def _linger(self) -> None:
        """Wait for the peer to close, until the ARTIM timer runs out; what it still sends is dropped.

        If we closed first, with bytes of the peer unread, it would see a reset connection and never our
        reject, abort or answer to its release.
        """
        if not self._is_lingering:
            self._is_lingering = True
            self.assoc.wait_aside()
        if self.socket.wait(self._wake_receiver, TICK_S) and not self.socket.drop_some():
            self.socket.close()

    def _breaks_off(self) -> bool:
        """Whether the peer fell silent within a message, or takes too long over it."""
        dimse, timeouts = self.assoc.dimse, self.assoc.timeouts
        if self.state_machine.current_state != "Sta6" or dimse.is_serving or not dimse.is_receiving:
            self._message_since = None
            return False
        now = time.monotonic()
        self._message_since = self._message_since or now
        return now - self._heard_at > timeouts.dimse_s or now - self._message_since > timeouts.message_s

    def _waits_in_vain(self) -> bool:
        """Whether the answer to the A-ASSOCIATE-RQ takes too long; PS3.8 has no timer in Sta3."""
        waited_s = time.monotonic() - self.state_since
        return self.state_machine.current_state == "Sta3" and waited_s > self.assoc.timeouts.acse_s

    def _is_to_end(self) -> bool:
        """Whether the association was idle for too long, or the service stops and nothing is in flight."""
        dimse = self.assoc.dimse
        if self.state_machine.current_state != "Sta6" or dimse.is_serving or not self.to_provider_queue.empty():
            return False
        if dimse.is_receiving:
            return False
        return self.assoc.is_draining or time.monotonic() - self._heard_at > self.assoc.timeouts.idle_s

    def _wait_for_wake(self) -> None:
        waiting = select.poll()
        waiting.register(self._wake_receiver, select.POLLIN)
        waiting.poll(TICK_S * 1000)

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
            self.event_queue.put("Evt19")  # a PDU that does not get complete
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
            primitive = pdu.to_primitive()  # here, because what it refuses would end the thread in the state machine
        except Exception as error:  # noqa: BLE001 (third-party decoding of a peer's bytes: any of them is a bad PDU)
            self.assoc.report_bad_pdu(error)
            self.event_queue.put("Evt19")
            return
        pdu.to_primitive = lambda: primitive
        self._recv_pdu.put(pdu)
        self.event_queue.put(event)
