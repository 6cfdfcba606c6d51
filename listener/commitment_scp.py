"""Storage Commitment as SCP: accept requests, and create the report that follows on the peer's association.

References
----------
DICOM PS3.4 Annex J (Push Model), PS3.7 Sections 10.1.1 (N-EVENT-REPORT), 10.1.4 (N-ACTION), Annex C
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import decode, encode
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from config.logs import get_logger
from cxr.dicom import READING_FAULTS
from cxr.errors import CxrError
from db.disk import Spool
from db.engine import Database
from db.images import commitments
from db.images.commitments import Answer, Reference
from listener.dimse_messages import Command
from listener.statuses import SUCCESS, Status

SOP_CLASS = str(StorageCommitmentPushModel)
SYNTAXES: tuple[UID, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""Longest request that is read; one about 10,000 instances has 1.5 MB."""

NO_SUCH_SOP_INSTANCE = Status(
    0x0112, "No such SOP Instance", "The request is not on the well-known instance of the Push Model."
)
NO_SUCH_ACTION = Status(0x0123, "No such action", "Action Type ID is not 1, Request Storage Commitment.")
INVALID_ARGUMENT = Status(
    0x0115,
    "Invalid argument value",
    "Transaction UID or Referenced SOP Sequence are absent, empty, malformed, or can't be read.",
)
RESOURCE_LIMITATION = Status(0x0213, "Resource limitation", "The request is longer than 4 MiB: ask about fewer.")
PROCESSING_FAILURE = Status(0x0110, "Processing failure", "The service failed; its log has the cause. Ask again later.")

STATUSES = (
    SUCCESS,
    PROCESSING_FAILURE,
    NO_SUCH_SOP_INSTANCE,
    INVALID_ARGUMENT,
    NO_SUCH_ACTION,
    RESOURCE_LIMITATION,
)
"""All statuses of the response to a request."""

_REQUEST = 1  # Action Type ID
# Until then this process sends the report; later the worker does, also after a crash.
_WORKER_DELAY = timedelta(seconds=90)

log = get_logger(__name__)


class RequestBody:
    """The data set of a request while it arrives, in memory, up to `MAX_REQUEST_BYTES`."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_too_long = False

    def write(self, fragment: memoryview) -> None:
        """Append one fragment; drop the data beyond the limit."""
        self.is_too_long = self.is_too_long or len(self.data) + len(fragment) > MAX_REQUEST_BYTES
        if self.is_too_long:
            self.data.clear()
        else:
            self.data += fragment


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """Status of the response to a request, and its row number if a report follows."""

    status: Status
    number: int | None = None


@dataclass(frozen=True, slots=True)
class EventReport:
    """One N-EVENT-REPORT to send."""

    encoded: bytes
    answer: Answer


class CommitmentScp:
    """Accepts requests and creates reports; thread-safe.

    Parameters
    ----------
    database, spool
        The audit database and the received files.
    keep_for
        How long the service keeps an object after its commitment.
    reports_on_same_association
        Whether reports are sent on the peer's own association while it is open.
    clock
        Current time, time zone aware.
    """

    def __init__(
        self,
        database: Database,
        spool: Spool,
        *,
        keep_for: timedelta,
        reports_on_same_association: bool,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._spool = spool
        self._keep_for = keep_for
        self._wait = _WORKER_DELAY if reports_on_same_association else timedelta()
        self.reports_on_same_association = reports_on_same_association
        self._clock = clock

    def accept_request(
        self, command: Command, body: RequestBody | None, transfer_syntax_uid: str, calling_ae_title: str
    ) -> RequestOutcome:
        """Handle one N-ACTION request; with Success it is recorded."""
        if command.sop_class_uid != SOP_CLASS or command.sop_instance_uid != str(StorageCommitmentPushModelInstance):
            return RequestOutcome(NO_SUCH_SOP_INSTANCE)
        if command.action_type != _REQUEST:
            return RequestOutcome(NO_SUCH_ACTION)
        if body is not None and body.is_too_long:
            return RequestOutcome(RESOURCE_LIMITATION)
        try:
            transaction_uid, references = _read(bytes(body.data) if body else b"", transfer_syntax_uid)
        except (OSError, *READING_FAULTS):  # pydicom raises OSError over a cut sequence
            return RequestOutcome(INVALID_ARGUMENT)
        try:
            return RequestOutcome(SUCCESS, self._record(transaction_uid, references, calling_ae_title))
        except CxrError as error:
            log.exception("commitment_not_taken", code=error.code)
            return RequestOutcome(PROCESSING_FAILURE)

    def create_report(self, number: int, transfer_syntax_uid: str) -> EventReport | None:
        """Create the report on a request; None: the request is no longer open."""
        now = self._clock()
        with self._database.read() as session:
            claimed = commitments.find(session, number)
        if claimed is None:
            return None
        answer = commitments.answer(self._database, self._spool, claimed, keep_until=now + self._keep_for)
        syntax = UID(transfer_syntax_uid)
        encoded = encode(answer.dataset(), syntax.is_implicit_VR, syntax.is_little_endian)
        return EventReport(encoded or b"", answer)

    def record_reported(self, number: int, answer: Answer) -> None:
        """Record that the peer accepted the report."""
        with self._database.begin() as session:
            commitments.mark_reported(session, number, answer, now=self._clock())
        log.info("commitment_reported", count=len(answer.committed), refused=len(answer.refused))

    def hand_over(self, number: int) -> None:
        """Make a report that was not sent on this association due for the worker."""
        now = self._clock()
        with self._database.begin() as session:
            if commitments.find(session, number) is not None:
                commitments.postpone(session, number, code=None, due_at=now, now=now)

    def _record(self, transaction_uid: str, references: list[Reference], calling_ae_title: str) -> int:
        now = self._clock()
        with self._database.begin() as session:
            number = commitments.request(
                session,
                peer_ae_title=calling_ae_title,
                transaction_uid=transaction_uid,
                references=references,
                due_at=now + self._wait,
                now=now,
            )
        log.info("commitment_requested", count=len(references))
        return number


def _read(encoded: bytes, transfer_syntax_uid: str) -> tuple[str, list[Reference]]:
    """Decode Transaction UID and references.

    Raises
    ------
    ValueError
        If one is absent or malformed; pydicom may raise others of `READING_FAULTS`.
    """
    syntax = UID(transfer_syntax_uid)
    request = decode(BytesIO(encoded), syntax.is_implicit_VR, syntax.is_little_endian)
    references = list(dict.fromkeys(_references(request)))
    if not references:
        raise ValueError("no reference")
    return _uid(request, "TransactionUID"), references


def _references(request: Dataset) -> Iterator[Reference]:
    for item in request.ReferencedSOPSequence:
        yield Reference(
            sop_class_uid=_uid(item, "ReferencedSOPClassUID"),
            sop_instance_uid=_uid(item, "ReferencedSOPInstanceUID"),
        )


def _uid(dataset: Dataset, keyword: str) -> str:
    value = UID(str(dataset[keyword].value))
    if not value.is_valid:
        raise ValueError("not a UID")
    return str(value)
