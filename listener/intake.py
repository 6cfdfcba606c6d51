"""Taking in one received object: read, check, decide, keep, write down. No network here.

When `Intake.take` returns, the object is on the platter and its row is committed, or it is written
down that it was not kept; only then the peer is told Success. What goes wrong is an exception,
see ``listener.statuses``.
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
from listener.reception import file_header
from listener.service import StoreRequest

_IDENTIFICATION_GROUP = 0x0008  # every composite object has elements of it
_KEPT = frozenset({JobState.QUEUED, JobState.HELD})
# Objects that are read at once: a hostile one may take 130 MiB of memory meanwhile.
_READERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of an object."""

    outcome: Literal["new", "resent", "changed_resend"]
    state: JobState  # that a new one starts in
    reason: str  # why
    image_id: int
    job_id: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Judged:
    header: ImageHeader
    decision: ViewDecision
    state: JobState
    pixel_digest: str | None


class Intake:
    """Takes received objects in; many threads may use one.

    Parameters
    ----------
    database, spool
        Rows and files.
    contexts
        Which SOP classes are taken on their merits.
    unknown_view
        The setting ``view.unknown``.
    max_inflated_bytes
        How far a deflated data set may swell.
    clock
        The time, aware.
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

    def take(self, request: StoreRequest) -> Taken:
        """Take in one complete object.

        Raises
        ------
        SpoolFull
            If the disk refuses the object.
        ObjectTooLarge
            If it is larger than accepted, or swells beyond that when inflated.
        IdentityMismatch
            If presentation context, command and data set disagree on what it is.
        UnparsableObject
            If it is not a data set that can be read.
        StorageError
            If the audit database refuses.
        """
        received_at = self._clock()
        incoming = request.reception.complete()
        with self._readers:
            judged = self._judge(incoming.path, request)
        known = self._find_known(judged.header, incoming.digest)
        needs_it = known is not None and needs_file(known, self._spool.is_lost)
        received = (
            None
            if known is None or needs_it
            else self._write_resend(judged.header, incoming.digest, request.calling_ae_title)
        )
        if received is None:
            spool_name = self._spool.keep(incoming) if needs_it or judged.state in _KEPT else None
            received = self._write_down(request, incoming, judged, received_at, spool_name)
        return Taken(
            outcome=received.outcome,
            state=judged.state,
            reason=judged.decision.reason,
            image_id=received.image_id,
            job_id=received.job_id,
            size_bytes=incoming.size,
        )

    def _judge(self, path: Path, request: StoreRequest) -> _Judged:
        dataset = open_dataset(path, max_inflated_bytes=self._max_inflated_bytes)
        _check_is_object(dataset)
        header = read_header(dataset)
        _check_identity(header, request)
        digest = pixel_digest(
            path,
            dataset,
            dataset_at=len(header_of(request.command, request.transfer_syntax_uid)),
            max_inflated_bytes=self._max_inflated_bytes,
        )
        decision = decide_view(header)
        if not self._contexts.is_accepted(header.sop_class_uid):
            decision = replace(decision, view=View.NOT_FRONTAL, reason=NOT_ACCEPTED_REASON)
        return _Judged(header, decision, initial_state(decision, self._unknown_view), digest)

    def _find_known(self, header: ImageHeader, dataset_digest: str) -> LatestImage | None:
        """Recognise what is known byte for byte."""
        with self._database.read() as session:
            known = find_latest(session, header.sop_instance_uid)
            return known if known is not None and is_dataset(session, known, dataset_digest) else None

    def _write_resend(self, header: ImageHeader, dataset_digest: str, peer_ae_title: str) -> Received | None:
        """Write down a resend before its file costs a second fsync; None: it is no longer one."""
        with self._database.begin() as session:
            return receive_again(
                session,
                header.sop_instance_uid,
                dataset_digest,
                peer_ae_title=peer_ae_title,
                now=self._clock(),
                is_lost=self._spool.is_lost,
            )

    def _write_down(
        self,
        request: StoreRequest,
        incoming: IncomingFile,
        judged: _Judged,
        received_at: datetime,
        spool_name: str | None,
    ) -> Received:
        # If the transaction fails, the file stays, for the sweep: whether it was committed is not
        # certain then, and a file without a row is harmless while a row without its file is not.
        receipt = Receipt(
            header=judged.header,
            decision=judged.decision,
            initial_state=judged.state,
            reason=judged.decision.reason,
            peer_ae_title=request.calling_ae_title,
            transfer_syntax_uid=request.transfer_syntax_uid,
            size_bytes=incoming.size,
            dataset_digest=incoming.digest,
            pixel_digest=judged.pixel_digest,
            spool_name=spool_name,
            received_at=received_at,
        )
        with self._database.begin() as session:
            received = receive(session, receipt, now=self._clock(), is_lost=self._spool.is_lost)
        if received.outcome == "resent" and spool_name is not None and not received.is_restored:
            self._spool.remove(spool_name)
        return received


def header_of(command: Command, transfer_syntax_uid: str) -> bytes:
    """Encode what stands before the data set of a request in its file."""
    return file_header(command.sop_class_uid, command.sop_instance_uid, transfer_syntax_uid)


def _check_is_object(dataset: HeaderDataset) -> None:
    """Tell bytes that merely can be read as elements from an object that lacks its identifiers."""
    if not any(tag.group == _IDENTIFICATION_GROUP for tag in dataset.keys()):  # noqa: SIM118 (values stay unread)
        raise UnparsableObject(
            "Received bytes without any element of group 0008; accepted is a DICOM data set: have the sender send "
            "the image again."
        )


def _check_identity(header: ImageHeader, request: StoreRequest) -> None:
    """Compare what context, command and data set say that this is (PS3.4 Section B.2.3, 0xA900)."""
    command = request.command
    classes = {header.sop_class_uid, command.sop_class_uid, request.abstract_syntax_uid}
    if len(classes) > 1:
        raise IdentityMismatch(
            "Received a data set, a command and a presentation context that don't name the same SOP class; accepted "
            "are equal ones: check the sender's configuration."
        )
    if header.sop_instance_uid != command.sop_instance_uid:
        raise IdentityMismatch(
            "Received a data set and a command that don't name the same SOP instance; accepted are equal ones: "
            "check the sender's configuration."
        )
