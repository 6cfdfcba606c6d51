"""Verify that an AE holds a report: by Storage Commitment where it is offered, else by C-FIND.

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
from inference.delivery.commitment_scu import (
    COMMITMENT_SOP_CLASS,
    CommitmentInbox,
    CommitmentServer,
    request_commitment,
)
from inference.delivery.destination_client import OutgoingReport, Presence, Verification

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
"""Limit of C-FIND responses about one object; a peer that ignores the keys may return all its objects."""


class DicomVerifier:
    """Verifies whether one AE holds objects.

    Parameters
    ----------
    address
        The peer.
    mode
        ``commitment``, ``find``, or ``auto``: Storage Commitment first, C-FIND for objects without a definite answer.
    commitment_listen
        Host and port to accept associations on which the peer sends its reports; None: reports are accepted
        on our own associations only.
    commitment_wait_s
        Longest wait for a report, in seconds.
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

    def verify(self, reports: Sequence[OutgoingReport]) -> Mapping[int, Verification]:
        """Verify by Storage Commitment where the peer offers it, else by C-FIND.

        Raises
        ------
        DeliveryError
            If the peer does not answer.
        """
        answers = self._late_reports(reports)
        if self._mode == "commitment" or (self._mode == "auto" and not self._commitment_is_silent):
            answers |= self._by_commitment(_unanswered(reports, answers))
        if self._mode != "commitment":
            answers |= self._by_find(_unanswered(reports, answers))
        return answers

    def close(self) -> None:
        """Stop listening for reports."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _late_reports(self, reports: Sequence[OutgoingReport]) -> dict[int, Verification]:
        """Return answers that arrived since the last request, on an association of the peer."""
        presences = self._inbox.wait_for_answers((report.sop_instance_uid for report in reports), timeout_s=0.0)
        return _answers(reports, presences, verified_by="storage_commitment")

    def _by_commitment(self, reports: Sequence[OutgoingReport]) -> dict[int, Verification]:
        """Request commitment on a separate association: a report may arrive in the middle of another response."""
        if not reports:
            return {}
        self._listen()
        presences = dict.fromkeys((report.sop_instance_uid for report in reports), Presence.UNANSWERABLE)
        reported: dict[str, Presence] = {}
        try:
            with self._association(COMMITMENT_SOP_CLASS) as association:
                if request_commitment(association, reports, self._inbox):
                    presences = dict.fromkeys(presences, Presence.UNKNOWN)
                    reported = self._inbox.wait_for_answers(presences, timeout_s=self._commitment_wait_s)
        except PresentationContextRejected:
            log.info("commitment_not_offered", port=self._address.port)
        except (AccessRefused, PeerUnreachable) as error:
            # Whether the peer is down or refuses us altogether, the following C-FIND shows.
            log.info("commitment_refused", port=self._address.port, code=error.code)
            if self._mode == "commitment":
                raise
        # Without a report within the wait, the next verifications skip Storage Commitment, and its wait.
        self._commitment_is_silent = not reported
        return _answers(reports, presences | reported, verified_by="storage_commitment")

    def _by_find(self, reports: Sequence[OutgoingReport]) -> dict[int, Verification]:
        if not reports:
            return {}
        try:
            with self._association(FIND_SOP_CLASS) as association:
                presences = {report.sop_instance_uid: find_instance(association, report) for report in reports}
        except PresentationContextRejected:
            presences = dict.fromkeys((report.sop_instance_uid for report in reports), Presence.UNANSWERABLE)
        return _answers(reports, presences, verified_by="c_find")

    @contextmanager
    def _association(self, sop_class_uid: str) -> Iterator[Association]:
        association = open_association(self._address, [context(sop_class_uid, _SYNTAXES)], self._inbox.handlers)
        try:
            yield association
        except AccessRefused:
            abandon(association)
            raise
        except (PeerUnreachable, RuntimeError) as error:
            # pynetdicom raises RuntimeError when the association has just ended.
            abandon(association)
            raise PeerUnreachable("The destination cut the association or did not answer in time.") from error
        finally:
            close(association)

    def _listen(self) -> None:
        """Start to accept associations of the peer for reports, if configured and not started yet."""
        if self._commitment_listen is not None and self._server is None:
            host, port = self._commitment_listen
            try:
                self._server = CommitmentServer(host, port, ae_title=self._address.calling_ae_title, inbox=self._inbox)
            except OSError:
                # Another worker of this machine uses the port; reports on our own associations still arrive.
                self._commitment_listen = None
                log.warning("commitment_port_taken", port=port)


def _answers(
    reports: Sequence[OutgoingReport], presences: Mapping[str, Presence], *, verified_by: str
) -> dict[int, Verification]:
    return {
        report.report_id: Verification(presence=presences[report.sop_instance_uid], verified_by=verified_by)
        for report in reports
        if report.sop_instance_uid in presences
    }


def _unanswered(reports: Sequence[OutgoingReport], answers: Mapping[int, Verification]) -> list[OutgoingReport]:
    """Return the reports without a definite answer."""
    definite = {number for number, answer in answers.items() if answer.presence in (Presence.PRESENT, Presence.ABSENT)}
    return [report for report in reports if report.report_id not in definite]


def find_instance(association: Association, report: OutgoingReport) -> Presence:
    """Query for one object by C-FIND at IMAGE level, with the keys of its study and series.

    Parameters
    ----------
    association
        With an accepted context for Study Root Query/Retrieve - FIND.
    report
        With the UIDs under which the object was stored.

    Returns
    -------
    Presence
        ``UNANSWERABLE`` if the peer refuses such a query.

    Raises
    ------
    PeerUnreachable
        If the peer does not answer, or sends more than 1000 responses.
    """
    presence = Presence.ABSENT
    # Read all responses, also after a match: the association can be used again only then.
    for number, (response, identifier) in enumerate(association.send_c_find(_query(report), FIND_SOP_CLASS)):
        if number == _MOST_ANSWERS:
            raise PeerUnreachable("The destination sends more than 1000 C-FIND responses about one object.")
        status = status_of(response)
        if status in _PENDING:
            if identifier is not None and identifier.get("SOPInstanceUID") == report.sop_instance_uid:
                presence = Presence.PRESENT
        elif status in _TRY_LATER:
            return Presence.UNKNOWN
        elif status != 0x0000:
            return Presence.UNANSWERABLE
    return presence


def _query(report: OutgoingReport) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = report.study_instance_uid or ""
    query.SeriesInstanceUID = report.series_instance_uid
    query.SOPInstanceUID = report.sop_instance_uid
    return query
