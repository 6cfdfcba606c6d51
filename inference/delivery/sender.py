"""Sender of one destination: claims due deliveries, sends and verifies reports, records the outcomes.

One sender per destination, in its own threads: a destination that hangs delays no other. A fault of a peer is
recorded (state, code, time of the next attempt) and not raised.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from config.logs import get_logger
from cxr.domain import DeliveryState
from cxr.errors import DeliveryCrashed, DeliveryError, ReportUnreadable, StorageError
from db import deliveries
from inference.delivery.backoff import Backoff
from inference.delivery.client_factory import make_client
from inference.delivery.delivery_outcomes import OutcomeRecorder
from inference.delivery.destination_client import OutgoingReport, Presence, Verification
from inference.delivery.stored_report import study_of
from inference.report.uids import series_uid

if TYPE_CHECKING:
    from config.settings import DeliverySettings, DestinationSettings
    from db.disk import Spool
    from db.engine import Database
    from db.schema.records import ClaimedDelivery

log = get_logger(__name__)

LARGEST_CLAIM = 8
MOST_CLAIMS = 16  # in one call, so that a stop does not wait for a long queue
_NO_ANSWER = Verification(presence=Presence.UNKNOWN, verified_by="")
CUTS_IN_A_ROW = 2  # after so many the destination counts as down: the rest of the claim is not sent


class Sender:
    """Delivers to one destination.

    Parameters
    ----------
    destination
        Entry of the settings; deliveries are stored under its ``name``.
    database, spool
        The audit database and the files of reports.
    settings
        The ``delivery`` table of the settings.
    calling_ae_title
        Our AE title.
    draw
        Random numbers in [0, 1), for the jitter.
    sent
        Called with each delivery that the destination has accepted.

    Raises
    ------
    SettingsError
        If the destination's TLS files can't be used.
    """

    def __init__(
        self,
        destination: DestinationSettings,
        *,
        database: Database,
        spool: Spool,
        settings: DeliverySettings,
        calling_ae_title: str,
        draw: Callable[[], float] = random.random,
        sent: Callable[[ClaimedDelivery], None] = lambda _: None,
    ) -> None:
        self._destination = destination
        self._sent = sent
        self._database = database
        self._spool = spool
        self._lease_s = settings.lease_s
        self._sender_id = uuid4().hex
        self._outcomes = OutcomeRecorder(
            destination,
            database=database,
            sender_id=self._sender_id,
            backoff=Backoff.of(settings),
            draw=draw,
        )
        self._client = make_client(destination, calling_ae_title)
        # One answer may take the whole timeout, and a claim must be finished within its lease.
        self._claim_limit = max(1, min(LARGEST_CLAIM, int(settings.lease_s / (2 * destination.timeout_s))))

    @property
    def name(self) -> str:
        """Name of the destination."""
        return self._destination.name

    def deliver_due(self, now: datetime) -> int:
        """Send due deliveries, then verify due ones; return how many were processed."""
        return self.send_due(now) + self.verify_due(now)

    def send_due(self, now: datetime) -> int:
        """Send due deliveries; faults of the peer are recorded, not raised.

        Parameters
        ----------
        now
            The time of this round.

        Returns
        -------
        int
            Number of deliveries that were processed.
        """
        count = self._process(DeliveryState.PENDING, self._send_all, now)
        self._client.release_idle()
        return count

    def verify_due(self, now: datetime) -> int:
        """Verify sent deliveries; may run in parallel with ``send_due``, so that slow answers delay no report.

        Parameters and return value are those of ``send_due``.
        """
        return self._process(DeliveryState.SENT, self._verify_all, now)

    def close(self) -> None:
        """Close the connections to the destination."""
        self._client.close()

    def _process(
        self, state: DeliveryState, work: Callable[[Sequence[ClaimedDelivery], datetime], bool], now: datetime
    ) -> int:
        """Claim and process deliveries until none is due, or the destination seems to be down."""
        count = 0
        for _ in range(MOST_CLAIMS):
            claimed = self._claim(state, now)
            count += len(claimed)
            if not claimed or not work(claimed, now):
                break
        return count

    def _claim(self, state: DeliveryState, now: datetime) -> Sequence[ClaimedDelivery]:
        with self._database.begin() as session:
            return deliveries.claim(
                session,
                destination=self.name,
                sender_id=self._sender_id,
                limit=self._claim_limit,
                now=now,
                lease_s=self._lease_s,
                states=(state,),
            )

    def _send_all(self, claimed: Sequence[ClaimedDelivery], now: datetime) -> bool:
        """Send claimed deliveries; return whether the destination seems to be up."""
        cuts = 0
        down: DeliveryError | None = None
        for delivery in claimed:
            fault = down or self._send(delivery, now)
            if fault is None:
                cuts = 0
                continue
            self._outcomes.record_failure(delivery, fault, now)
            # Without a status there was no answer: the destination may be down.
            cuts = cuts + 1 if fault.retryable and fault.status is None else 0
            down = fault if cuts >= CUTS_IN_A_ROW else None
        return cuts == 0

    def _send(self, delivery: ClaimedDelivery, now: datetime) -> DeliveryError | None:
        try:
            stored = self._client.store(self._outgoing_report(delivery))
        except DeliveryError as error:
            return error
        except StorageError:
            return ReportUnreadable("The report's file name is not one of the spool's: run `cxr db check`.")
        except Exception:  # one report that a library fails on must not stop the next
            log.exception("delivery_crashed", destination=self.name, delivery=delivery.id)
            return DeliveryCrashed("A library failed over this report.")
        self._outcomes.record_sent(delivery, stored, now)
        self._sent(delivery)
        return None

    def _verify_all(self, claimed: Sequence[ClaimedDelivery], now: datetime) -> bool:
        """Verify claimed deliveries; return whether the destination seems to be up."""
        answers: Mapping[int, Verification] = {}
        try:
            answers = self._client.verify([self._outgoing_report(delivery) for delivery in claimed])
        except DeliveryError as error:
            log.warning("delivery_not_verified", destination=self.name, code=error.code)
        except Exception:  # one answer that a library fails on must not stop the next
            log.exception("delivery_crashed", destination=self.name)
        for delivery in claimed:
            self._outcomes.record_check(delivery, answers.get(delivery.report_id, _NO_ANSWER), now)
        return bool(answers)

    def _outgoing_report(self, delivery: ClaimedDelivery) -> OutgoingReport:
        """Create the report to send; for a sent delivery with the UIDs under which it was stored."""
        is_sent = delivery.state is DeliveryState.SENT
        sop_class_uid = (is_sent and delivery.delivered_sop_class_uid) or delivery.sop_class_uid
        sop_instance_uid = (is_sent and delivery.delivered_sop_instance_uid) or delivery.sop_instance_uid
        is_fallback = sop_instance_uid != delivery.sop_instance_uid
        return OutgoingReport(
            report_id=delivery.report_id,
            path=self._spool.path(delivery.spool_name),
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            study_instance_uid=delivery.study_instance_uid or study_of(self._spool.path(delivery.spool_name)),
            series_instance_uid=series_uid(sop_instance_uid) if is_fallback else delivery.series_instance_uid,
            chosen_sop_class_uid=delivery.delivered_sop_class_uid,
        )
