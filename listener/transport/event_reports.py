"""Storage Commitment reports of one association, sent while no request is in progress.

A report is sent after a moment without a request: most peers release the association right after their
request, and then receive the report on a new association.

References
----------
DICOM PS3.7 Sections 10.1.1 and 10.1.4, PS3.4 Section J.3
"""

from __future__ import annotations

from collections import deque
from io import BytesIO
from typing import TYPE_CHECKING

from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.sop_class import StorageCommitmentPushModelInstance

from config.logs import get_logger
from cxr.errors import CxrError
from listener.commitment_scp import SOP_CLASS, CommitmentScp, EventReport
from listener.dimse_messages import Command
from listener.statuses import SUCCESS, Status

if TYPE_CHECKING:
    from listener.transport.association import ListenerAssociation
    from listener.transport.messages import Request

log = get_logger(__name__)


class EventReports:
    """Queue of the reports to the peer of one association; used by its thread alone.

    Parameters
    ----------
    assoc
        The association.
    commitments
        Storage Commitment SCP.
    """

    def __init__(self, assoc: ListenerAssociation, commitments: CommitmentScp) -> None:
        self._assoc = assoc
        self._commitments = commitments
        self._queue: deque[tuple[int, int, str]] = deque()  # our number, context, transfer syntax
        self._sent: tuple[int, int, EventReport] | None = None  # Message ID, our number, report
        self._last_message_id = 0

    @property
    def is_due(self) -> bool:
        """Whether a report is queued, and none waits for its response."""
        return bool(self._queue) and self._sent is None and bool(self._assoc.is_established)

    def accept_request(self, request: Request, transfer_syntax_uid: str, calling_ae_title: str) -> Status:
        """Handle a request, and queue its report where it belongs on this association."""
        outcome = self._commitments.accept_request(request.command, request.body, transfer_syntax_uid, calling_ae_title)
        if outcome.number is not None and self._commitments.reports_on_same_association:
            self._queue.append((outcome.number, request.context_id, transfer_syntax_uid))
        return outcome.status

    def send_next(self) -> None:
        """Send the oldest report of the queue."""
        number, context_id, transfer_syntax_uid = self._queue[0]
        report = self._commitments.create_report(number, transfer_syntax_uid)
        self._queue.popleft()
        if report is None:
            return
        self._last_message_id = self._last_message_id % 65535 + 1
        message = N_EVENT_REPORT()
        message.MessageID = self._last_message_id
        message.AffectedSOPClassUID = SOP_CLASS
        message.AffectedSOPInstanceUID = StorageCommitmentPushModelInstance
        message.EventTypeID = report.answer.event_type
        message.EventInformation = BytesIO(report.encoded)
        self._sent = (self._last_message_id, number, report)
        self._assoc.dimse.send_msg(message, context_id)

    def process_response(self, command: Command) -> None:
        """Process the peer's N-EVENT-REPORT-RSP: with Success the report is done, else the worker retries it."""
        if self._sent is None or command.responds_to != self._sent[0]:
            return
        _, number, report = self._sent
        self._sent = None
        if command.status == SUCCESS.code:
            self._commitments.record_reported(number, report.answer)
        else:
            self._commitments.hand_over(number)

    def hand_over(self) -> None:
        """Hand unsent and unconfirmed reports over to the worker at the end of the association."""
        unreported = [number for number, _, _ in self._queue] + ([self._sent[1]] if self._sent else [])
        self._queue.clear()
        self._sent = None
        for number in unreported:
            try:
                self._commitments.hand_over(number)
            except CxrError as error:  # the worker sends it all the same, a little later
                log.warning("commitment_not_left", code=error.code)
