"""Whether an AE has what it took: Storage Commitment where it offers that, else C-FIND.

References
----------
DICOM PS3.4 Annex J (Storage Commitment), Section C.4.1 (C-FIND)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt

from config.logs import get_logger
from cxr.errors import PeerUnreachable, PresentationContextRejected
from inference.delivery.association import Address, close, context, open_association
from inference.delivery.carrier import Parcel, Presence, Verification
from inference.delivery.commitment import (
    COMMITMENT_SOP_CLASS,
    CommitmentInbox,
    CommitmentServer,
    request_commitment,
)
from inference.delivery.find import FIND_SOP_CLASS, find_instance

if TYPE_CHECKING:
    from pynetdicom.association import Association

log = get_logger(__name__)

COMMITMENT_WAIT_S = 10.0
_SYNTAXES = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))

VerifyMode = Literal["auto", "commitment", "find", "none"]


class DicomVerifier:
    """Asks one AE whether it has objects.

    Parameters
    ----------
    address
        Whom to call.
    mode
        ``commitment``, ``find``, or ``auto``: Storage Commitment first, C-FIND for what it leaves open.
    commitment_listen
        Host and port for reports that the peer brings on an association of its own; None: only ours
        are used.
    commitment_wait_s
        How long a report is waited for before the question is left open, or C-FIND is asked.
    """

    def __init__(
        self,
        address: Address,
        *,
        mode: VerifyMode = "auto",
        commitment_listen: tuple[str, int] | None = None,
        commitment_wait_s: float = COMMITMENT_WAIT_S,
    ) -> None:
        self._address = address
        self._mode = mode
        self._commitment_listen = commitment_listen
        self._commitment_wait_s = min(commitment_wait_s, address.timeout_s)
        self._inbox = CommitmentInbox()
        self._server: CommitmentServer | None = None
        self._commitment_is_silent = False

    def verify(self, parcels: Sequence[Parcel]) -> Mapping[int, Verification]:
        """Ask by Storage Commitment where the peer offers it, else by C-FIND.

        Raises
        ------
        DeliveryError
            If nobody answers.
        """
        presences = self._late_reports(parcels)
        open_parcels = [parcel for parcel in parcels if parcel.sop_instance_uid not in presences]
        answers = {
            parcel.report_id: Verification(
                presence=presences[parcel.sop_instance_uid], verified_by="storage_commitment"
            )
            for parcel in parcels
            if parcel.sop_instance_uid in presences
        }
        return answers | (self._ask(open_parcels) if open_parcels else {})

    def close(self) -> None:
        """Stop listening for reports."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _late_reports(self, parcels: Sequence[Parcel]) -> dict[str, Presence]:
        """What came in since the last question, on an association of the peer's."""
        taken = self._inbox.take((parcel.sop_instance_uid for parcel in parcels), timeout_s=0.0)
        return {uid: presence for uid, presence in taken.items() if presence is not Presence.UNKNOWN}

    def _ask(self, parcels: Sequence[Parcel]) -> dict[int, Verification]:
        proposed = [] if self._mode == "find" or self._skips_commitment else [COMMITMENT_SOP_CLASS]
        proposed += [] if self._mode == "commitment" else [FIND_SOP_CLASS]
        handlers = [(evt.EVT_N_EVENT_REPORT, self._inbox.on_event_report)]
        try:
            association = open_association(
                self._address, [context(sop_class, _SYNTAXES) for sop_class in proposed], handlers
            )
        except PresentationContextRejected:
            return dict.fromkeys(
                (parcel.report_id for parcel in parcels), Verification(presence=Presence.UNANSWERABLE, verified_by="")
            )
        try:
            return self._ask_on(association, parcels)
        except RuntimeError as error:  # pynetdicom's way to say that the association has just ended
            raise PeerUnreachable("The destination cut the association.") from error
        finally:
            close(association)

    @property
    def _skips_commitment(self) -> bool:
        return self._mode == "auto" and self._commitment_is_silent

    def _ask_on(self, association: Association, parcels: Sequence[Parcel]) -> dict[int, Verification]:
        accepted = {str(accepted.abstract_syntax) for accepted in association.accepted_contexts}
        answers: dict[int, Verification] = {}
        if COMMITMENT_SOP_CLASS in accepted:
            answers = self._ask_commitment(association, parcels)
        for parcel in parcels:
            is_answered = parcel.report_id in answers and answers[parcel.report_id].presence in (
                Presence.PRESENT,
                Presence.ABSENT,
            )
            if not is_answered and FIND_SOP_CLASS in accepted:
                answers[parcel.report_id] = Verification(
                    presence=find_instance(association, parcel), verified_by="c_find"
                )
        return answers

    def _ask_commitment(self, association: Association, parcels: Sequence[Parcel]) -> dict[int, Verification]:
        self._listen()
        presences: dict[str, Presence] = {}
        missing = Presence.UNANSWERABLE
        if request_commitment(association, parcels, self._inbox):
            missing = Presence.UNKNOWN
            presences = self._inbox.take(
                (parcel.sop_instance_uid for parcel in parcels),
                timeout_s=self._commitment_wait_s,
            )
        # A peer that never reports where we can hear it would cost this wait for every report.
        self._commitment_is_silent = not presences
        return {
            parcel.report_id: Verification(
                presence=presences.get(parcel.sop_instance_uid, missing), verified_by="storage_commitment"
            )
            for parcel in parcels
        }

    def _listen(self) -> None:
        """Listen for reports on associations of the peer's, from the first request on."""
        if self._commitment_listen is not None and self._server is None:
            host, port = self._commitment_listen
            try:
                self._server = CommitmentServer(host, port, ae_title=self._address.calling_ae_title, inbox=self._inbox)
            except OSError:
                # Another worker of this machine has the port; reports on our associations still come.
                self._commitment_listen = None
                log.warning("commitment_port_taken", port=port)
