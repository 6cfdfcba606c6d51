"""Takes the deliveries of one destination there, again and again, and records what came of each.

One sender per destination, each in a thread of its own: a destination that hangs holds up no other.
What a peer does is never an error here; it is a state, a code and a time.
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
from inference.delivery.carrier import Parcel, Presence, Verification
from inference.delivery.make_carrier import make_carrier
from inference.delivery.record import Outcomes
from inference.delivery.stored_report import study_of
from inference.report.uids import series_uid

if TYPE_CHECKING:
    from config.settings import DeliverySettings, DestinationSettings
    from db.disk import Spool
    from db.engine import Database
    from db.schema.records import ClaimedDelivery

log = get_logger(__name__)

LARGEST_CLAIM = 8
MOST_CLAIMS = 16  # in one call, so that a stop need not wait for a long queue
_NO_ANSWER = Verification(presence=Presence.UNKNOWN, verified_by="")
CUTS_IN_A_ROW = 2  # so many, and the destination is down: the rest of the claim is not tried


class Sender:
    """Delivers to one destination.

    Parameters
    ----------
    destination
        Where; its ``name`` is what the deliveries are stored under.
    database, spool
        Where deliveries and reports are.
    settings
        The ``delivery`` table of the settings.
    calling_ae_title
        Ours.
    draw
        Random numbers in [0, 1), for the jitter.

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
    ) -> None:
        self._destination = destination
        self._database = database
        self._spool = spool
        self._lease_s = settings.lease_s
        self._sender_id = uuid4().hex
        self._outcomes = Outcomes(
            destination,
            database=database,
            sender_id=self._sender_id,
            backoff=Backoff.of(settings),
            draw=draw,
        )
        self._carrier = make_carrier(destination, calling_ae_title)
        # One answer may take its whole timeout, and a claim is to be done within its lease.
        self._claim_limit = max(1, min(LARGEST_CLAIM, int(settings.lease_s / (2 * destination.timeout_s))))

    @property
    def name(self) -> str:
        """Name of the destination."""
        return self._destination.name

    def deliver_due(self, now: datetime) -> int:
        """Send what is due, then verify what is due; both as below."""
        return self.send_due(now) + self.verify_due(now)

    def send_due(self, now: datetime) -> int:
        """Send what is due; never raises what a peer does.

        Parameters
        ----------
        now
            The time of this round.

        Returns
        -------
        int
            How many deliveries were worked on.
        """
        worked_on = self._work_on(DeliveryState.PENDING, self._send_all, now)
        self._carrier.release_idle()
        return worked_on

    def verify_due(self, now: datetime) -> int:
        """Look for what was sent; may run beside ``send_due``, so that a slow answer holds up no report.

        Parameters and the answer are those of ``send_due``.
        """
        return self._work_on(DeliveryState.SENT, self._verify_all, now)

    def close(self) -> None:
        """Release the association, if one is open."""
        self._carrier.close()

    def _work_on(
        self, state: DeliveryState, work: Callable[[Sequence[ClaimedDelivery], datetime], bool], now: datetime
    ) -> int:
        """Claim and work until nothing is due, or the destination seems to be down."""
        worked_on = 0
        for _ in range(MOST_CLAIMS):
            claimed = self._claim(state, now)
            worked_on += len(claimed)
            if not claimed or not work(claimed, now):
                break
        return worked_on

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
        """Send what was claimed; return whether the destination seems to be up."""
        cuts = 0
        down: DeliveryError | None = None
        for delivery in claimed:
            fault = down or self._send(delivery, now)
            if fault is None:
                cuts = 0
                continue
            self._outcomes.failed(delivery, fault, now)
            # Without a status nobody answered: the fault may be the destination's, not the report's.
            cuts = cuts + 1 if fault.retryable and fault.status is None else 0
            down = fault if cuts >= CUTS_IN_A_ROW else None
        return cuts == 0

    def _send(self, delivery: ClaimedDelivery, now: datetime) -> DeliveryError | None:
        try:
            stored = self._carrier.store(self._parcel(delivery))
        except DeliveryError as error:
            return error
        except StorageError:
            return ReportUnreadable("The report's name is not one that the spool gives: run `cxr db check`.")
        except Exception:  # a report that trips a library must not stop those behind it
            log.exception("delivery_crashed", destination=self.name, delivery=delivery.id)
            return DeliveryCrashed("A library failed over this report.")
        self._outcomes.sent(delivery, stored, now)
        return None

    def _verify_all(self, claimed: Sequence[ClaimedDelivery], now: datetime) -> bool:
        """Look for what was sent; return whether the destination seems to be up."""
        answers: Mapping[int, Verification] = {}
        try:
            answers = self._carrier.verify([self._parcel(delivery) for delivery in claimed])
        except DeliveryError as error:
            log.warning("delivery_not_verified", destination=self.name, code=error.code)
        except Exception:  # an answer that trips a library must not stop those behind it
            log.exception("delivery_crashed", destination=self.name)
        for delivery in claimed:
            self._outcomes.checked(delivery, answers.get(delivery.report_id, _NO_ANSWER), now)
        return bool(answers)

    def _parcel(self, delivery: ClaimedDelivery) -> Parcel:
        """Say what is sent, or, after it was sent, what was."""
        is_sent = delivery.state is DeliveryState.SENT
        sop_class_uid = (is_sent and delivery.delivered_sop_class_uid) or delivery.sop_class_uid
        sop_instance_uid = (is_sent and delivery.delivered_sop_instance_uid) or delivery.sop_instance_uid
        is_fallback = sop_instance_uid != delivery.sop_instance_uid
        return Parcel(
            report_id=delivery.report_id,
            path=self._spool.path(delivery.spool_name),
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            study_instance_uid=delivery.study_instance_uid or study_of(self._spool.path(delivery.spool_name)),
            series_instance_uid=series_uid(sop_instance_uid) if is_fallback else delivery.series_instance_uid,
            chosen_sop_class_uid=delivery.delivered_sop_class_uid,
        )
