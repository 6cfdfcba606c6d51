"""Log lines about senders that are refused or not understood: at most one a minute for each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from config.logs import get_logger
from cxr.dicom.associate_pdu import MalformedPdu
from listener.admission import Sender

_EVERY_S = 60.0
_MOST_LINES = 100

log = get_logger(__name__)


class RefusalLog:
    """Writes the lines; many threads may use one.

    A sender is an address with its AE titles. No more than 100 senders have a line in a minute, so that one which
    invents a title for each connection fills neither the log nor the memory; a line counts those left out.

    Parameters
    ----------
    monotonic
        Seconds of a clock that never steps.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._logged: dict[tuple[Sender, str], float] = {}  # oldest first
        self._left_out = 0

    def refused(self, sender: Sender, reason: str) -> None:
        """Log that a connection or an association was refused, and why."""
        if self._is_due(sender, reason):
            log.info(
                "association_refused",
                reason=reason,
                address=_plain(sender.address),
                calling_ae_title=sender.calling_ae_title,
                called_ae_title=sender.called_ae_title,
            )

    def not_understood(self, sender: Sender, error: Exception) -> None:
        """Log that a PDU can't be read: which item, and where that begins in the PDU, in bytes."""
        kind = type(error).__name__
        item, offset = (f"{error.item:02X}H", error.offset) if isinstance(error, MalformedPdu) else (None, None)
        if self._is_due(sender, f"{kind} {item} {offset}"):
            log.info(
                "bad_pdu",
                kind=kind,
                item=item,
                offset=offset,
                address=_plain(sender.address),
                calling_ae_title=sender.calling_ae_title,
                called_ae_title=sender.called_ae_title,
            )

    def _is_due(self, sender: Sender, what: str) -> bool:
        """Whether this sender had no such line within a minute, and few others had one."""
        now = self._monotonic()
        with self._lock:
            while self._logged and now - next(iter(self._logged.values())) >= _EVERY_S:
                del self._logged[next(iter(self._logged))]
            if (sender, what) in self._logged:
                return False
            if len(self._logged) >= _MOST_LINES:
                self._left_out += 1
                return False
            self._logged[sender, what] = now
            left_out, self._left_out = self._left_out, 0
        if left_out:
            log.info("refusals_not_logged", count=left_out)
        return True


def _plain(address: str) -> str:
    """Remove the scope of an IPv6 address."""
    return address.partition("%")[0]
