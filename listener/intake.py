"""Intake of one received object: read the header, check identity, decide the view, keep the file, record the row.

When `Intake.store` returns, file and folder are synced and the row is committed, or it is recorded that the
object was not kept; only then the status Success is sent. Faults are exceptions; ``listener.statuses`` has
their statuses. Nothing here uses the network.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from cxr.dicom import HeaderDataset, open_dataset, read_header
from cxr.domain import ImageHeader, JobState, UnknownView, View, ViewDecision
from cxr.errors import IdentityMismatch, UnparsableObject
from cxr.view import decide_view, initial_state
from db.disk import IncomingFile, Spool
from db.engine import Database
from db.images import find_latest, is_dataset, needs_file, receive, receive_again
from db.schema.records import LatestImage, Receipt, Received
from listener.contexts import NOT_ACCEPTED_REASON, Contexts
from listener.dimse_messages import Command
from listener.pixel_digest import pixel_digest
from listener.reception import Reception, file_header

_IDENTIFICATION_GROUP = 0x0008  # every composite object has elements of this group
_STATES_WITH_FILE = frozenset({JobState.QUEUED, JobState.HELD})
# Objects that are read at the same time: a hostile one may need 130 MiB of memory.
_READERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRequest:
    """A complete C-STORE request."""

    command: Command
    abstract_syntax_uid: str  # of its presentation context
    transfer_syntax_uid: str
    calling_ae_title: str
    reception: Reception


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeResult:
    """Outcome of the intake of an object."""

    outcome: Literal["new", "resent", "changed_resend"]
    state: JobState  # initial state of a new job
    reason: str  # of the view decision
    image_id: int
    job_id: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Assessment:
    header: ImageHeader
    decision: ViewDecision
    state: JobState
    pixel_digest: str | None


class Intake:
    """Stores received objects; thread-safe.

    Parameters
    ----------
    database, spool
        The audit database and the received files.
    contexts
        SOP classes whose objects get a view decision.
    unknown_view
        The setting ``view.unknown``.
    max_inflated_bytes
        Largest size of a deflated data set after inflation, in bytes.
    clock
        Current time, time zone aware.
    """

    def __init__(
        self,
        database: Database,
        spool: Spool,
        contexts: Contexts,
        *,
        unknown_view: UnknownView,
        max_inflated_bytes: int,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._spool = spool
        self._contexts = contexts
        self._unknown_view = unknown_view
        self._max_inflated_bytes = max_inflated_bytes
        self._clock = clock
        self._readers = threading.BoundedSemaphore(_READERS)

    def store(self, request: StoreRequest) -> IntakeResult:
        """Store one complete object.

        Raises
        ------
        SpoolFull
            If the disk is full.
        ObjectTooLarge
            If it exceeds the size limit, also after inflation.
        IdentityMismatch
            If presentation context, command and data set differ in SOP class or instance.
        UnparsableObject
            If it is no data set that can be parsed.
        StorageError
            If the audit database can't be written.
        """
        received_at = self._clock()
        incoming = request.reception.complete()
        with self._readers:
            assessment = self._assess(incoming.path, request)
        original = self._find_resend(assessment.header, incoming.digest)
        is_missing = original is not None and needs_file(original, self._spool.is_lost)
        received = (
            None
            if original is None or is_missing
            else self._record_resend(assessment.header, incoming.digest, request.calling_ae_title)
        )
        if received is None:
            spool_name = self._spool.keep(incoming) if is_missing or assessment.state in _STATES_WITH_FILE else None
            received = self._record(request, incoming, assessment, received_at, spool_name)
        return IntakeResult(
            outcome=received.outcome,
            state=assessment.state,
            reason=assessment.decision.reason,
            image_id=received.image_id,
            job_id=received.job_id,
            size_bytes=incoming.size,
        )

    def _assess(self, path: Path, request: StoreRequest) -> _Assessment:
        dataset = open_dataset(path, max_inflated_bytes=self._max_inflated_bytes)
        _check_is_object(dataset)
        header = read_header(dataset)
        _check_identity(header, request)
        digest = pixel_digest(
            path,
            dataset,
            dataset_at=len(file_header_of(request.command, request.transfer_syntax_uid)),
            max_inflated_bytes=self._max_inflated_bytes,
        )
        decision = decide_view(header)
        if not self._contexts.is_accepted(header.sop_class_uid):
            decision = replace(decision, view=View.NOT_FRONTAL, reason=NOT_ACCEPTED_REASON)
        return _Assessment(header, decision, initial_state(decision, self._unknown_view), digest)

    def _find_resend(self, header: ImageHeader, dataset_digest: str) -> LatestImage | None:
        """Find the image that this object repeats byte for byte; None: it is new or changed."""
        with self._database.read() as session:
            latest = find_latest(session, header.sop_instance_uid)
            return latest if latest is not None and is_dataset(session, latest, dataset_digest) else None

    def _record_resend(self, header: ImageHeader, dataset_digest: str, peer_ae_title: str) -> Received | None:
        """Record a resend without a second fsync of its file; None: the original has changed meanwhile."""
        with self._database.begin_together() as session:
            return receive_again(
                session,
                header.sop_instance_uid,
                dataset_digest,
                peer_ae_title=peer_ae_title,
                now=self._clock(),
                is_lost=self._spool.is_lost,
            )

    def _record(
        self,
        request: StoreRequest,
        incoming: IncomingFile,
        assessment: _Assessment,
        received_at: datetime,
        spool_name: str | None,
    ) -> Received:
        # If the transaction fails, the file stays for the sweep: the commit may have succeeded, and a file
        # without a row is harmless while a row without its file is not.
        receipt = Receipt(
            header=assessment.header,
            decision=assessment.decision,
            initial_state=assessment.state,
            reason=assessment.decision.reason,
            peer_ae_title=request.calling_ae_title,
            transfer_syntax_uid=request.transfer_syntax_uid,
            size_bytes=incoming.size,
            dataset_digest=incoming.digest,
            pixel_digest=assessment.pixel_digest,
            spool_name=spool_name,
            received_at=received_at,
        )
        with self._database.begin_together() as session:
            received = receive(session, receipt, now=self._clock(), is_lost=self._spool.is_lost)
        if received.outcome == "resent" and spool_name is not None and not received.is_restored:
            self._spool.remove(spool_name)
        return received


def file_header_of(command: Command, transfer_syntax_uid: str) -> bytes:
    """Encode preamble and file meta information of a request's file."""
    return file_header(command.sop_class_uid, command.sop_instance_uid, transfer_syntax_uid)


def _check_is_object(dataset: HeaderDataset) -> None:
    """Refuse bytes that parse as elements by chance; an object that only lacks identifiers passes."""
    if not any(tag.group == _IDENTIFICATION_GROUP for tag in dataset.keys()):  # noqa: SIM118 (values are not decoded)
        raise UnparsableObject(
            "Received bytes without any element of group 0008; accepted is a DICOM data set: have the sender send "
            "the image again."
        )


def _check_identity(header: ImageHeader, request: StoreRequest) -> None:
    """Compare SOP class and instance of context, command and data set (PS3.4 Section B.2.3, 0xA900)."""
    command = request.command
    classes = {header.sop_class_uid, command.sop_class_uid, request.abstract_syntax_uid}
    if len(classes) > 1:
        raise IdentityMismatch(
            "Received different SOP Class UIDs in data set, command and presentation context; accepted "
            "are equal ones: check the sender's configuration."
        )
    if header.sop_instance_uid != command.sop_instance_uid:
        raise IdentityMismatch(
            "Received different SOP Instance UIDs in data set and command; accepted are equal ones: "
            "check the sender's configuration."
        )
