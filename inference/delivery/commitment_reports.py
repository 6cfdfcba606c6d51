"""Storage Commitment reports on our own associations, for requests whose association has ended.

A report to a peer that is down is retried with the back-off of ``delivery``, and its content is determined
anew for each attempt, so that it states the objects that are kept at that time.

References
----------
DICOM PS3.4 Annex J, PS3.7 Section D.3.3.4 (SCP/SCU role selection)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from config.logs import get_logger
from cxr.errors import DeliveryCrashed, DeliveryError, PeerRefused
from db.images import commitments
from db.images.commitments import Answer, ClaimedRequest
from inference.delivery.association import Address, certificates_of, close, context, open_association, status_of
from inference.delivery.backoff import Backoff

if TYPE_CHECKING:
    from pynetdicom.association import Association

    from config.settings import DestinationSettings, Settings
    from db.disk import Spool
    from db.engine import Database

NO_ADDRESS = "no_address"  # code of a request that is answer up
_SUCCESS = 0x0000
_CLAIM_LIMIT = 16  # requests in one claim
_TIMEOUT_S = 30.0
_SYNTAXES = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))

log = get_logger(__name__)


class CommitmentReportSender:
    """Sends peers the reports that they did not receive on their own association.

    Parameters
    ----------
    settings
        All settings: the peers and the addresses for their reports.
    database, spool
        The audit database and the received files.
    draw
        Random numbers in [0, 1), for the jitter.

    Raises
    ------
    SettingsError
        If a destination's TLS files can't be used.
    """

    def __init__(
        self, settings: Settings, *, database: Database, spool: Spool, draw: Callable[[], float] = random.random
    ) -> None:
        self._settings = settings
        self._database = database
        self._spool = spool
        self._draw = draw
        self._backoff = Backoff.of(settings.delivery)
        self._certificates = {each.name: certificates_of(each) for each in settings.destinations}
        self._keep = timedelta(days=settings.listener.commitment.keep_days)

    def report_due(self, now: datetime) -> int:
        """Send due reports; faults of the peer are recorded, not raised.

        Parameters
        ----------
        now
            The time of this round.

        Returns
        -------
        int
            Number of reports that were tried.
        """
        with self._database.read() as session:
            if not commitments.is_any_due(session, now):
                return 0
        with self._database.begin() as session:
            lease_s = self._settings.delivery.lease_s
            claimed = commitments.claim(session, limit=_CLAIM_LIMIT, now=now, lease_s=lease_s)
        for request in claimed:
            address = self._address(request.peer_ae_title)
            if address is None:
                self._give_up(request, NO_ADDRESS, now)
            else:
                self._report(request, address, now)
        return len(claimed)

    def _report(self, claimed: ClaimedRequest, address: Address, now: datetime) -> None:
        answer = commitments.answer(self._database, self._spool, claimed, keep_until=now + self._keep)
        try:
            send_report(address, answer)
        except DeliveryError as error:
            self._failed(claimed, error, now)
        except Exception:  # one report that a library fails on must not stop the next
            log.exception("delivery_crashed")
            self._failed(claimed, DeliveryCrashed("A library failed over this report."), now)
        else:
            with self._database.begin() as session:
                commitments.mark_reported(session, claimed.id, answer, now=now)
            log.info("commitment_reported", count=len(answer.committed), refused=len(answer.refused))

    def _failed(self, claimed: ClaimedRequest, error: DeliveryError, now: datetime) -> None:
        again = self._backoff.next_attempt(claimed.attempts + 1, since=claimed.requested_at, now=now, draw=self._draw())
        if again is None:
            self._give_up(claimed, error.code, now)
            return
        log.warning("commitment_report_postponed", code=error.code, attempt=claimed.attempts + 1)
        with self._database.begin() as session:
            commitments.postpone(session, claimed.id, code=error.code, due_at=again, now=now)

    def _give_up(self, claimed: ClaimedRequest, code: str, now: datetime) -> None:
        log.warning("commitment_report_dead", code=code)
        with self._database.begin() as session:
            commitments.give_up(session, claimed.id, code=code, now=now)

    def _address(self, ae_title: str) -> Address | None:
        """Find the address for reports to a peer: from its entry, else from the destination with its AE title."""
        our_ae_title = self._settings.listener.ae_title
        for peer in self._settings.peers:
            address = peer.report_address()
            if peer.ae_title == ae_title and address is not None:
                return Address(
                    ae_title=ae_title,
                    host=address[0],
                    port=address[1],
                    calling_ae_title=our_ae_title,
                    timeout_s=_TIMEOUT_S,
                )
        for destination in self._settings.destinations:
            if destination.kind == "dicom" and destination.dicom_address()[0] == ae_title:
                return self._address_of(destination)
        return None

    def _address_of(self, destination: DestinationSettings) -> Address:
        ae_title, host, port = destination.dicom_address()
        return Address(
            ae_title=ae_title,
            host=host,
            port=port,
            calling_ae_title=destination.calling_ae_title or self._settings.listener.ae_title,
            timeout_s=destination.timeout_s,
            tls=self._certificates[destination.name],
        )


def send_report(address: Address, answer: Answer) -> None:
    """Open an association as SCP of Storage Commitment, and send one N-EVENT-REPORT.

    Raises
    ------
    DeliveryError
        If the peer does not answer with Success.
    """
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    association = open_association(address, [context(StorageCommitmentPushModel, _SYNTAXES)], roles=[role])
    try:
        _assume_scp_role(association)
        response, _ = association.send_n_event_report(
            answer.dataset(), answer.event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        status = status_of(response)
    finally:
        close(association)
    if status != _SUCCESS:
        raise PeerRefused("The peer answered the Storage Commitment report with a failure.", status=status)


def _assume_scp_role(association: Association) -> None:
    """Act as SCP also where the peer accepted the context without a role selection answer, as some do."""
    for accepted in association.accepted_contexts:
        accepted._as_scp = True
