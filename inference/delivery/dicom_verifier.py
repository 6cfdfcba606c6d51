"""Verify that an AE holds a report: Storage Commitment where it is offered, else C-FIND.

References
----------
DICOM PS3.4 Annex J (Storage Commitment), Section C.4.1 (C-FIND), Section C.6.2 (Study Root)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from config.logs import get_logger
from cxr.errors import AccessRefused, PeerUnreachable, PresentationContextRejected
from inference.delivery.association import Address, abandon, close, context, open_association, status_of
from inference.delivery.carrier import Parcel, Presence, Verification
from inference.delivery.commitment_scu import (
    COMMITMENT_SOP_CLASS,
    CommitmentInbox,
    CommitmentServer,
    request_commitment,
)

if TYPE_CHECKING:
    from pynetdicom.association import Association


log = get_logger(__name__)

COMMITMENT_WAIT_S = 10.0
_SYNTAXES = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))

VerifyMode = Literal["auto", "commitment", "find", "none"]

FIND_SOP_CLASS = str(StudyRootQueryRetrieveInformationModelFind)
_PENDING = (0xFF00, 0xFF01)
_TRY_LATER = range(0xA700, 0xA800)
_MOST_ANSWERS = 1000
"""To a question about one object; a peer that does not look at the keys may answer with all that it has."""


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
        answers = self._late_reports(parcels)
        if self._mode == "commitment" or (self._mode == "auto" and not self._commitment_is_silent):
            answers |= self._by_commitment(_unanswered(parcels, answers))
        if self._mode != "commitment":
            answers |= self._by_find(_unanswered(parcels, answers))
        return answers

    def close(self) -> None:
        """Stop listening for reports."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _late_reports(self, parcels: Sequence[Parcel]) -> dict[int, Verification]:
        """What came in since the last question, on an association of the peer's."""
        taken = self._inbox.take((parcel.sop_instance_uid for parcel in parcels), timeout_s=0.0)
        return _answers(parcels, taken, verified_by="storage_commitment")

    def _by_commitment(self, parcels: Sequence[Parcel]) -> dict[int, Verification]:
        """Ask on an association of its own: a report may come in the middle of another answer."""
        if not parcels:
            return {}
        self._listen()
        presences = dict.fromkeys((parcel.sop_instance_uid for parcel in parcels), Presence.UNANSWERABLE)
        reported: dict[str, Presence] = {}
        try:
            with self._association(COMMITMENT_SOP_CLASS) as association:
                if request_commitment(association, parcels, self._inbox):
                    presences = dict.fromkeys(presences, Presence.UNKNOWN)
                    reported = self._inbox.take(presences, timeout_s=self._commitment_wait_s)
        except PresentationContextRejected:
            log.info("commitment_not_offered", port=self._address.port)
        except (AccessRefused, PeerUnreachable) as error:
            # If the peer is down, or refuses everything of ours, the question by C-FIND tells.
            log.info("commitment_refused", port=self._address.port, code=error.code)
            if self._mode == "commitment":
                raise
        # A peer that never reports where we can hear it would cost this wait for every report.
        self._commitment_is_silent = not reported
        return _answers(parcels, presences | reported, verified_by="storage_commitment")

    def _by_find(self, parcels: Sequence[Parcel]) -> dict[int, Verification]:
        if not parcels:
            return {}
        try:
            with self._association(FIND_SOP_CLASS) as association:
                presences = {parcel.sop_instance_uid: find_instance(association, parcel) for parcel in parcels}
        except PresentationContextRejected:
            presences = dict.fromkeys((parcel.sop_instance_uid for parcel in parcels), Presence.UNANSWERABLE)
        return _answers(parcels, presences, verified_by="c_find")

    @contextmanager
    def _association(self, sop_class_uid: str) -> Iterator[Association]:
        association = open_association(self._address, [context(sop_class_uid, _SYNTAXES)], self._inbox.handlers)
        try:
            yield association
        except AccessRefused:
            abandon(association)
            raise
        except (PeerUnreachable, RuntimeError) as error:
            # RuntimeError is pynetdicom's way to say that the association has just ended.
            abandon(association)
            raise PeerUnreachable("The destination cut the association or did not answer in time.") from error
        finally:
            close(association)

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


def _answers(
    parcels: Sequence[Parcel], presences: Mapping[str, Presence], *, verified_by: str
) -> dict[int, Verification]:
    return {
        parcel.report_id: Verification(presence=presences[parcel.sop_instance_uid], verified_by=verified_by)
        for parcel in parcels
        if parcel.sop_instance_uid in presences
    }


def _unanswered(parcels: Sequence[Parcel], answers: Mapping[int, Verification]) -> list[Parcel]:
    """Those about which nothing definite is known."""
    definite = {number for number, answer in answers.items() if answer.presence in (Presence.PRESENT, Presence.ABSENT)}
    return [parcel for parcel in parcels if parcel.report_id not in definite]


def find_instance(association: Association, parcel: Parcel) -> Presence:
    """Ask for one object at IMAGE level, below its study and series.

    Parameters
    ----------
    association
        With an accepted context for Study Root Query/Retrieve - FIND.
    parcel
        With the UIDs the object was stored under.

    Returns
    -------
    Presence
        ``UNANSWERABLE`` if the peer refuses such a query.

    Raises
    ------
    PeerUnreachable
        If the peer does not answer, or does not come to an end with it.
    """
    presence = Presence.ABSENT
    # To its end, also after a match: pynetdicom's association is free only then.
    for number, (response, identifier) in enumerate(association.send_c_find(_query(parcel), FIND_SOP_CLASS)):
        if number == _MOST_ANSWERS:
            raise PeerUnreachable("The destination answers a question about one object without an end.")
        status = status_of(response)
        if status in _PENDING:
            if identifier is not None and identifier.get("SOPInstanceUID") == parcel.sop_instance_uid:
                presence = Presence.PRESENT
        elif status in _TRY_LATER:
            return Presence.UNKNOWN
        elif status != 0x0000:
            return Presence.UNANSWERABLE
    return presence


def _query(parcel: Parcel) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = parcel.study_instance_uid or ""
    query.SeriesInstanceUID = parcel.series_instance_uid
    query.SOPInstanceUID = parcel.sop_instance_uid
    return query
