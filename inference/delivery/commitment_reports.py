"""Storage Commitment reports on associations of our own, for requests whose association has ended.

A peer that is away gets its report when it is back: tried again with the waits of ``delivery``, and
judged anew each time, so that a report never says more than is so when it is made.

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

NO_ADDRESS = "no_address"  # why a request is given up
_SUCCESS = 0x0000
_AT_ONCE = 16  # requests that are claimed together
_TIMEOUT_S = 30.0
_SYNTAXES = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))

log = get_logger(__name__)


class CommitmentReports:
    """Brings peers the reports that they did not get on their own association.

    Parameters
    ----------
    settings
        All settings: who the peers are, and where they take reports.
    database, spool
        Rows and files.
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
        """Report what is due; never raises what a peer does.

        Parameters
        ----------
        now
            The time of this round.

        Returns
        -------
        int
            How many reports were tried.
        """
        with self._database.read() as session:
            if not commitments.is_any_due(session, now):
                return 0
        with self._database.begin() as session:
            lease_s = self._settings.delivery.lease_s
            claimed = commitments.claim(session, limit=_AT_ONCE, now=now, lease_s=lease_s)
        for each in claimed:
            address = self._address(each.peer_ae_title)
            if address is None:
                self._give_up(each, NO_ADDRESS, now)
            else:
                self._report(each, address, now)
        return len(claimed)

    def _report(self, claimed: ClaimedRequest, address: Address, now: datetime) -> None:
        given = commitments.answer(self._database, self._spool, claimed, keep_until=now + self._keep)
        try:
            send_report(address, given)
        except DeliveryError as error:
            self._failed(claimed, error, now)
        except Exception:  # an answer that trips a library must not stop those behind it
            log.exception("delivery_crashed")
            self._failed(claimed, DeliveryCrashed("A library failed over this report."), now)
        else:
            with self._database.begin() as session:
                commitments.mark_reported(session, claimed.id, given, now=now)
            log.info("commitment_reported", count=len(given.committed), refused=len(given.refused))

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
        """Find where a peer takes reports: as its entry says, else as the destination of that AE title."""
        ours = self._settings.listener.ae_title
        for peer in self._settings.peers:
            named = peer.report_address()
            if peer.ae_title == ae_title and named is not None:
                return Address(
                    ae_title=ae_title, host=named[0], port=named[1], calling_ae_title=ours, timeout_s=_TIMEOUT_S
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


def send_report(address: Address, given: Answer) -> None:
    """Open an association as SCP of Storage Commitment, and send one N-EVENT-REPORT.

    Raises
    ------
    DeliveryError
        If the peer does not take it.
    """
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    association = open_association(address, [context(StorageCommitmentPushModel, _SYNTAXES)], roles=[role])
    try:
        _take_the_role(association)
        response, _ = association.send_n_event_report(
            given.dataset(), given.event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        status = status_of(response)
    finally:
        close(association)
    if status != _SUCCESS:
        raise PeerRefused("The peer answered the Storage Commitment report with a failure.", status=status)


def _take_the_role(association: Association) -> None:
    """Be the SCP also where the peer accepted the context and said nothing of roles, as some do."""
    for accepted in association.accepted_contexts:
        accepted._as_scp = True
