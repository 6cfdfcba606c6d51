"""Rate-limited log lines about refused requestors and PDUs that can't be decoded: one a minute for each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from config.logs import get_logger
from cxr.dicom.associate_pdu import MalformedPdu
from listener.admission import Requestor

_EVERY_S = 60.0
_MOST_LINES = 100

log = get_logger(__name__)


class RefusalLog:
    """Writes the lines; thread-safe.

    A requestor is an address with its AE titles. At most 100 lines are written in a minute, so that a peer with a new
    AE title for each connection fills neither log nor memory; a line counts those that were omitted.

    Parameters
    ----------
    monotonic
        Monotonic clock, in seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._logged: dict[tuple[Requestor, str], float] = {}  # oldest first
        self._omitted = 0

    def log_refusal(self, requestor: Requestor, reason: str) -> None:
        """Log a refused connection or association with its reason."""
        if self._is_due(requestor, reason):
            log.info(
                "association_refused",
                reason=reason,
                address=_without_zone(requestor.address),
                calling_ae_title=requestor.calling_ae_title,
                called_ae_title=requestor.called_ae_title,
            )

    def log_bad_pdu(self, requestor: Requestor, error: Exception) -> None:
        """Log a PDU that can't be decoded: its item, and the item's offset in the PDU in bytes."""
        kind = type(error).__name__
        item, offset = (f"{error.item:02X}H", error.offset) if isinstance(error, MalformedPdu) else (None, None)
        if self._is_due(requestor, f"{kind} {item} {offset}"):
            log.info(
                "bad_pdu",
                kind=kind,
                item=item,
                offset=offset,
                address=_without_zone(requestor.address),
                calling_ae_title=requestor.calling_ae_title,
                called_ae_title=requestor.called_ae_title,
            )

    def _is_due(self, requestor: Requestor, subject: str) -> bool:
        """Whether there was no line on this requestor and subject within a minute, and fewer than 100 others."""
        now = self._monotonic()
        with self._lock:
            while self._logged and now - next(iter(self._logged.values())) >= _EVERY_S:
                del self._logged[next(iter(self._logged))]
            if (requestor, subject) in self._logged:
                return False
            if len(self._logged) >= _MOST_LINES:
                self._omitted += 1
                return False
            self._logged[requestor, subject] = now
            omitted, self._omitted = self._omitted, 0
        if omitted:
            log.info("refusals_not_logged", count=omitted)
        return True


def _without_zone(address: str) -> str:
    """Remove the zone of an IPv6 address."""
    return address.partition("%")[0]
