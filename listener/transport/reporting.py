"""The Storage Commitment of one association: requests come in, reports go out once nothing else is under way.

A report is sent after a moment without a request: most peers release the association right after
their request, and get the report on a new one then.

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
from listener.commitment_scp import SOP_CLASS, Commitments, EventReport
from listener.dimse_messages import Command
from listener.statuses import SUCCESS, Status

if TYPE_CHECKING:
    from listener.transport.association import ListenerAssociation
    from listener.transport.messages import Request

log = get_logger(__name__)


class Reporting:
    """The reports that one association owes its peer; used by its thread alone.

    Parameters
    ----------
    assoc
        Whose.
    commitments
        What takes requests and makes reports.
    """

    def __init__(self, assoc: ListenerAssociation, commitments: Commitments) -> None:
        self._assoc = assoc
        self._commitments = commitments
        self._owed: deque[tuple[int, int, str]] = deque()  # our number, context, transfer syntax
        self._sent: tuple[int, int, EventReport] | None = None  # Message ID, our number, what was said
        self._last_message_id = 0

    @property
    def is_due(self) -> bool:
        """Whether a report is owed, and none waits for its response."""
        return bool(self._owed) and self._sent is None and bool(self._assoc.is_established)

    def take(self, request: Request, transfer_syntax_uid: str, calling_ae_title: str) -> Status:
        """Take a request in."""
        taken = self._commitments.take(request.command, request.body, transfer_syntax_uid, calling_ae_title)
        if taken.number is not None and self._commitments.on_same:
            self._owed.append((taken.number, request.context_id, transfer_syntax_uid))
        return taken.status

    def send_next(self) -> None:
        """Send the oldest report that is owed."""
        number, context_id, transfer_syntax_uid = self._owed[0]
        report = self._commitments.report(number, transfer_syntax_uid)
        self._owed.popleft()
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

    def answered(self, command: Command) -> None:
        """Take the peer's response: only after Success the report was made."""
        if self._sent is None or command.responds_to != self._sent[0]:
            return
        _, number, report = self._sent
        self._sent = None
        if command.status == SUCCESS.code:
            self._commitments.reported(number, report.answer)
        else:
            self._commitments.leave(number)

    def leave(self) -> None:
        """Leave what was not reported to the worker: the association has ended."""
        left = [number for number, _, _ in self._owed] + ([self._sent[1]] if self._sent else [])
        self._owed.clear()
        self._sent = None
        for number in left:
            try:
                self._commitments.leave(number)
            except CxrError as error:  # the worker takes it all the same, a little later
                log.warning("commitment_not_left", code=error.code)
