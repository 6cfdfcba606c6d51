"""Storage Commitment as SCP: taking requests, and the report that follows on the peer's own association.

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
PROCESSING_FAILURE = Status(0x0110, "Processing failure", "The service failed; its log says where. Ask again later.")

STATUSES = (
    SUCCESS,
    PROCESSING_FAILURE,
    NO_SUCH_SOP_INSTANCE,
    INVALID_ARGUMENT,
    NO_SUCH_ACTION,
    RESOURCE_LIMITATION,
)
"""Every status that a request is answered with."""

_REQUEST = 1  # Action Type ID
# Until then the report is this process's to make; the worker takes over what it left, killed or not.
_OURS_FOR = timedelta(seconds=90)

log = get_logger(__name__)


class Body:
    """The data set of a request while it arrives: in memory, and not more than is read."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_too_long = False

    def write(self, fragment: memoryview) -> None:
        """Take one fragment; beyond the bound nothing is kept."""
        self.is_too_long = self.is_too_long or len(self.data) + len(fragment) > MAX_REQUEST_BYTES
        if self.is_too_long:
            self.data.clear()
        else:
            self.data += fragment


@dataclass(frozen=True, slots=True)
class Taken:
    """What a request is answered with, and our number of it where a report follows."""

    status: Status
    number: int | None = None


@dataclass(frozen=True, slots=True)
class EventReport:
    """One N-EVENT-REPORT to send."""

    encoded: bytes
    answer: Answer


class Commitments:
    """Takes requests and makes reports; many threads may use one.

    Parameters
    ----------
    database, spool
        Rows and files.
    keep
        How long the service keeps what it commits to.
    on_same
        Whether reports go to the peer's own association, where it still is open.
    clock
        The time, aware.
    """

    def __init__(
        self, database: Database, spool: Spool, *, keep: timedelta, on_same: bool, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._spool = spool
        self._keep = keep
        self._wait = _OURS_FOR if on_same else timedelta()
        self.on_same = on_same
        self._clock = clock

    def take(self, command: Command, body: Body | None, transfer_syntax_uid: str, calling_ae_title: str) -> Taken:
        """Take one N-ACTION request; when Success is returned, it is written down."""
        if command.sop_class_uid != SOP_CLASS or command.sop_instance_uid != str(StorageCommitmentPushModelInstance):
            return Taken(NO_SUCH_SOP_INSTANCE)
        if command.action_type != _REQUEST:
            return Taken(NO_SUCH_ACTION)
        if body is not None and body.is_too_long:
            return Taken(RESOURCE_LIMITATION)
        try:
            transaction_uid, references = _read(bytes(body.data) if body else b"", transfer_syntax_uid)
        except (OSError, *READING_FAULTS):  # pydicom raises OSError over a cut sequence
            return Taken(INVALID_ARGUMENT)
        try:
            return Taken(SUCCESS, self._write_down(transaction_uid, references, calling_ae_title))
        except CxrError as error:
            log.exception("commitment_not_taken", code=error.code)
            return Taken(PROCESSING_FAILURE)

    def report(self, number: int, transfer_syntax_uid: str) -> EventReport | None:
        """Make the report on a request; None: there is nothing to report any more."""
        now = self._clock()
        with self._database.read() as session:
            claimed = commitments.find(session, number)
        if claimed is None:
            return None
        given = commitments.answer(self._database, self._spool, claimed, keep_until=now + self._keep)
        syntax = UID(transfer_syntax_uid)
        encoded = encode(given.dataset(), syntax.is_implicit_VR, syntax.is_little_endian)
        return EventReport(encoded or b"", given)

    def reported(self, number: int, answer: Answer) -> None:
        """Write down that the peer took the report."""
        with self._database.begin() as session:
            commitments.mark_reported(session, number, answer, now=self._clock())
        log.info("commitment_reported", count=len(answer.committed), refused=len(answer.refused))

    def leave(self, number: int) -> None:
        """Give a report that could not be made here to the worker."""
        now = self._clock()
        with self._database.begin() as session:
            if commitments.find(session, number) is not None:
                commitments.postpone(session, number, code=None, due_at=now, now=now)

    def _write_down(self, transaction_uid: str, references: list[Reference], calling_ae_title: str) -> int:
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
    """Read Transaction UID and references.

    Raises
    ------
    ValueError
        If one is absent or malformed; or what pydicom raises over bytes that are no data set.
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
