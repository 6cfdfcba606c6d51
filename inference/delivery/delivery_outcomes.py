"""Outcomes of deliveries as state transitions in the audit database: sent, verified, retried later, or dead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from config.logs import get_logger
from cxr.errors import AccessRefused, DeliveryError, NotVerified, StorageError
from db import deliveries
from inference.delivery.backoff import Backoff
from inference.delivery.destination_client import Presence, Stored, Verification

if TYPE_CHECKING:
    from config.settings import DestinationSettings
    from db.engine import Database, Session
    from db.schema.records import ClaimedDelivery

log = get_logger(__name__)


class OutcomeRecorder:
    """Records the outcomes of the deliveries of one destination.

    Parameters
    ----------
    destination
        Entry of the settings, with the method and delay of verification.
    database
        The audit database.
    sender_id
        ID of the sender that claimed them; without its lease an outcome is not written.
    backoff
        Retry policy.
    draw
        Random numbers in [0, 1), for the jitter.
    """

    def __init__(
        self,
        destination: DestinationSettings,
        *,
        database: Database,
        sender_id: str,
        backoff: Backoff,
        draw: Callable[[], float],
    ) -> None:
        self._destination = destination
        self._database = database
        self._sender_id = sender_id
        self._backoff = backoff
        self._draw = draw
        # Not in the database: a few more verifications after a restart do no harm.
        self._checks: dict[int, int] = {}  # verifications since it was sent, by delivery
        self._resends: dict[int, int] = {}  # resends because it was absent, by delivery

    def record_sent(self, delivery: ClaimedDelivery, stored: Stored, now: datetime) -> None:
        """Record that the destination accepted it, and plan the first verification unless it is off."""
        verify_at = now + timedelta(seconds=self._destination.verify_after_s)
        with self._transaction(delivery) as session:
            deliveries.mark_sent(
                session,
                delivery.id,
                status=stored.status,
                sop_class_uid=stored.sop_class_uid,
                sop_instance_uid=stored.sop_instance_uid,
                verify_at=None if self._destination.verify == "none" else verify_at,
                now=now,
                sender_id=self._sender_id,
            )
        log.info("delivery_sent", destination=self._destination.name, delivery=delivery.id, status=stored.status)

    def record_failure(self, delivery: ClaimedDelivery, fault: DeliveryError, now: datetime) -> None:
        """Plan the next attempt; after a permanent fault or the time limit the delivery is dead."""
        is_slow = isinstance(fault, AccessRefused)
        next_attempt = self._next_time(delivery, delivery.attempts + 1, now, is_slow=is_slow)
        if next_attempt is None or not fault.retryable:
            self._record_dead(delivery, fault, now)
        else:
            self._postpone(delivery, fault, next_attempt, now)

    def record_check(self, delivery: ClaimedDelivery, answer: Verification, now: datetime) -> None:
        """Record one verification: verified, to be verified again, or to be sent again."""
        checks = self._checks.pop(delivery.id, 0) + 1
        if answer.presence is Presence.PRESENT:
            self._record_verified(delivery, answer.verified_by, now)
        elif answer.presence is Presence.ABSENT and checks >= self._backoff.checks:
            self._resend(delivery, now)
        elif answer.presence is Presence.UNANSWERABLE and self._destination.verify == "auto":
            self._plan_check(delivery, None, now)  # it stays sent: the destination supports no verification
        else:
            self._checks[delivery.id] = checks
            self._plan_check(delivery, self._next_time(delivery, checks, now), now)

    @contextmanager
    def _transaction(self, delivery: ClaimedDelivery) -> Iterator[Session]:
        try:
            with self._database.begin() as session:
                yield session
        except StorageError as error:
            # Another sender has the lease now, or an operator changed the state: the row stays as it is.
            log.warning(
                "delivery_not_recorded", destination=self._destination.name, delivery=delivery.id, code=error.code
            )

    def _record_verified(self, delivery: ClaimedDelivery, verified_by: str, now: datetime) -> None:
        self._resends.pop(delivery.id, None)
        with self._transaction(delivery) as session:
            deliveries.mark_verified(session, delivery.id, verified_by=verified_by, now=now, sender_id=self._sender_id)
        log.info("delivery_verified", destination=self._destination.name, delivery=delivery.id, verified_by=verified_by)

    def _resend(self, delivery: ClaimedDelivery, now: datetime) -> None:
        resends = self._resends.pop(delivery.id, 0)
        fault = NotVerified("The destination accepted the report and answers that it does not have it.")
        if resends >= self._backoff.resends:
            self._record_dead(delivery, fault, now)
        else:
            self._resends[delivery.id] = resends + 1
            self.record_failure(delivery, fault, now)

    def _postpone(self, delivery: ClaimedDelivery, fault: DeliveryError, not_before: datetime, now: datetime) -> None:
        with self._transaction(delivery) as session:
            deliveries.retry(
                session,
                delivery.id,
                code=fault.code,
                status=fault.status,
                not_before=not_before,
                now=now,
                sender_id=self._sender_id,
            )
        self._warn("delivery_postponed", delivery, fault)

    def _record_dead(self, delivery: ClaimedDelivery, fault: DeliveryError, now: datetime) -> None:
        with self._transaction(delivery) as session:
            deliveries.give_up(
                session, delivery.id, code=fault.code, status=fault.status, now=now, sender_id=self._sender_id
            )
        self._warn("delivery_dead", delivery, fault)

    def _warn(self, event: str, delivery: ClaimedDelivery, fault: DeliveryError) -> None:
        log.warning(
            event,
            destination=self._destination.name,
            delivery=delivery.id,
            attempt=delivery.attempts + 1,
            code=fault.code,
            status=fault.status,
        )

    def _plan_check(self, delivery: ClaimedDelivery, check_at: datetime | None, now: datetime) -> None:
        with self._transaction(delivery) as session:
            deliveries.check_again(session, delivery.id, check_at=check_at, now=now, sender_id=self._sender_id)

    def _next_time(
        self, delivery: ClaimedDelivery, failures: int, now: datetime, *, is_slow: bool = False
    ) -> datetime | None:
        since = delivery.requeued_at or delivery.created_at
        return self._backoff.next_attempt(failures, since=since, now=now, draw=self._draw(), is_slow=is_slow)
