"""What the service answers: the decisions about associations and objects, with their counts and logs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pynetdicom.presentation import PresentationContext

from config.logs import get_logger
from cxr.domain import Peer
from cxr.errors import CxrError, IntakeError
from db.disk import Spool
from listener.admission import Admission, Rejection, Sender
from listener.commitment_scp import Commitments
from listener.contexts import Contexts
from listener.dimse_messages import Command
from listener.intake import Intake, Taken, header_of
from listener.metrics import Metrics
from listener.reception import Reception
from listener.refusal_log import RefusalLog
from listener.service import StoreRequest
from listener.statuses import OUT_OF_RESOURCES, SUCCESS, Status, status_of

log = get_logger(__name__)


class Handlers:
    """The service that the transport asks; many threads call it at once.

    Parameters
    ----------
    admission
        Who may open an association.
    contexts
        What is accepted in it.
    spool
        Where data sets go while they arrive.
    intake
        What takes complete ones in.
    metrics
        What is counted.
    commitments
        What answers Storage Commitment.
    max_object_bytes
        Size of the largest data set that is accepted.
    """

    def __init__(
        self,
        admission: Admission,
        contexts: Contexts,
        spool: Spool,
        intake: Intake,
        metrics: Metrics,
        commitments: Commitments,
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

    def screen(self, sender: Sender) -> Rejection | None:
        """Say why this sender may not open an association now, as far as address and titles tell."""
        return self._admission.screen(sender)

    def enter(self, sender: Sender) -> Peer | Rejection:
        """Admit an association of a peer, or say why not."""
        return self._admission.enter(sender)

    def leave(self, peer: Peer) -> None:
        """Count an admitted association out."""
        self._admission.leave(peer)

    def supported_contexts(self, proposed: Sequence[PresentationContext]) -> list[PresentationContext]:
        """List what is supported of a proposal."""
        return self._contexts.supported_for(proposed)

    def receive(self, command: Command, transfer_syntax_uid: str, peer: Peer) -> Reception:
        """Open what a C-STORE's data set goes into."""
        limit = min(self._max_object_bytes, peer.max_object_bytes or self._max_object_bytes)
        return Reception(self._spool, header_of(command, transfer_syntax_uid), limit)

    def store(self, request: StoreRequest) -> Status:
        """Take in a complete object; one bad object never ends the association."""
        try:
            with self._metrics.answering():
                taken = self._intake.take(request)
        except IntakeError as error:
            return self._refuse(error)
        except Exception as error:  # noqa: BLE001 (the boundary of the network: our faults become a status)
            return self._apologise(error)
        self._welcome(taken)
        return SUCCESS

    def refused(self, reason: str, sender: Sender) -> None:
        """Count a connection or an association that was refused, and log its sender once a minute."""
        self._metrics.refused(reason)
        self._refusals.refused(sender, reason)

    def not_understood(self, sender: Sender, error: Exception) -> None:
        """Log that a PDU of this sender can't be read: which item, and where it begins."""
        self._refusals.not_understood(sender, error)

    def _welcome(self, taken: Taken) -> None:
        self._metrics.received("resent" if taken.outcome == "resent" else str(taken.state), taken.size_bytes)
        if taken.outcome == "resent":  # its state is what it was
            log.info("object_resent", image=taken.image_id, job=taken.job_id, size_bytes=taken.size_bytes)
            return
        log.info(
            "object_received" if taken.outcome == "new" else "object_changed_resend",
            image=taken.image_id,
            job=taken.job_id,
            state=str(taken.state),
            reason=taken.reason,
            size_bytes=taken.size_bytes,
        )

    def _refuse(self, error: IntakeError) -> Status:
        status = status_of(error)
        self._metrics.received(error.code)
        log.warning("object_refused", code=error.code, status=f"0x{status.code:04X}")
        return status

    def _apologise(self, error: Exception) -> Status:
        status = OUT_OF_RESOURCES if self._spool.is_full() else status_of(error)
        self._metrics.received(error.code if isinstance(error, CxrError) else "unexpected")
        log.error("object_failed", status=f"0x{status.code:04X}", exc_info=error)
        return status
