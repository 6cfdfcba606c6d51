"""The storage service: admission of associations and receipt of objects, with metrics and logs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pynetdicom.presentation import PresentationContext

from config.logs import get_logger
from cxr.domain import Peer
from cxr.errors import CxrError, IntakeError
from db.disk import Spool
from listener.admission import Admission, Rejection, Requestor
from listener.commitment_scp import CommitmentScp
from listener.contexts import Contexts
from listener.dimse_messages import Command
from listener.intake import Intake, IntakeResult, StoreRequest, file_header_of
from listener.metrics import Metrics
from listener.reception import Reception
from listener.refusal_log import RefusalLog
from listener.statuses import OUT_OF_RESOURCES, SUCCESS, Status, status_of

log = get_logger(__name__)


class StorageService:
    """Receives associations and objects from the transport; thread-safe.

    Parameters
    ----------
    admission
        Admits associations.
    contexts
        Supported presentation contexts.
    spool
        Files of data sets while they arrive.
    intake
        Stores complete objects.
    metrics
        Counters.
    commitments
        Storage Commitment SCP.
    max_object_bytes
        Largest accepted data set, in bytes.
    """

    def __init__(
        self,
        admission: Admission,
        contexts: Contexts,
        spool: Spool,
        intake: Intake,
        metrics: Metrics,
        commitments: CommitmentScp,
        *,
        max_object_bytes: int,
    ) -> None:
        self._admission = admission
        self._contexts = contexts
        self._spool = spool
        self._intake = intake
        self._metrics = metrics
        self.commitments = commitments
        self._max_object_bytes = max_object_bytes
        self._refusals = RefusalLog()

    @property
    def transfer_syntaxes(self) -> Collection[str]:
        """UIDs of the transfer syntaxes that may be accepted in any context."""
        return self._contexts.transfer_syntaxes

    def screen(self, requestor: Requestor) -> Rejection | None:
        """Check address, AE titles and free space of a requestor before its request is decoded; None: it may go on."""
        return self._admission.screen(requestor)

    def admit(self, requestor: Requestor) -> Peer | Rejection:
        """Admit an association, or return the reason for its rejection."""
        return self._admission.admit(requestor)

    def leave(self, peer: Peer) -> None:
        """Count an admitted association as ended."""
        self._admission.leave(peer)

    def supported_contexts(self, proposed: Sequence[PresentationContext]) -> list[PresentationContext]:
        """Return the supported contexts for a proposal; they are shared and must not be changed."""
        return self._contexts.supported_for(proposed)

    def receive(self, command: Command, transfer_syntax_uid: str, peer: Peer) -> Reception:
        """Open the reception of a C-STORE's data set; a fault is raised when it is complete, not here."""
        limit = min(self._max_object_bytes, peer.max_object_bytes or self._max_object_bytes)
        return Reception(self._spool, file_header_of(command, transfer_syntax_uid), limit)

    def store(self, request: StoreRequest) -> Status:
        """Store a complete object and return the status of the response; no exception ends the association."""
        try:
            with self._metrics.time_answer():
                result = self._intake.store(request)
        except IntakeError as error:
            return self._answer_refused(error)
        except Exception as error:  # noqa: BLE001 (network boundary: our faults become a status)
            return self._fail_unexpectedly(error)
        self._log_received(result)
        return SUCCESS

    def record_refusal(self, reason: str, requestor: Requestor) -> None:
        """Count a refused connection or association, and log its requestor at most once a minute."""
        self._metrics.count_refusal(reason)
        self._refusals.log_refusal(requestor, reason)

    def log_bad_pdu(self, requestor: Requestor, error: Exception) -> None:
        """Log a PDU that can't be decoded: its item and the item's offset in bytes."""
        self._refusals.log_bad_pdu(requestor, error)

    def _log_received(self, result: IntakeResult) -> None:
        self._metrics.count_object("resent" if result.outcome == "resent" else str(result.state), result.size_bytes)
        if result.outcome == "resent":  # the state of its job is unchanged
            log.info("object_resent", image=result.image_id, job=result.job_id, size_bytes=result.size_bytes)
            return
        log.info(
            "object_received" if result.outcome == "new" else "object_changed_resend",
            image=result.image_id,
            job=result.job_id,
            state=str(result.state),
            reason=result.reason,
            size_bytes=result.size_bytes,
        )

    def _answer_refused(self, error: IntakeError) -> Status:
        status = status_of(error)
        self._metrics.count_object(error.code)
        log.warning("object_refused", code=error.code, status=f"0x{status.code:04X}")
        return status

    def _fail_unexpectedly(self, error: Exception) -> Status:
        status = OUT_OF_RESOURCES if self._spool.is_full() else status_of(error)
        self._metrics.count_object(error.code if isinstance(error, CxrError) else "unexpected")
        log.error("object_failed", status=f"0x{status.code:04X}", exc_info=error)
        return status
