"""Retry policy of deliveries: exponential back-off with jitter; time and random numbers are parameters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.settings import DeliverySettings

FEWEST_FAILURES = 5
"""A delivery is not given up after fewer failures: the clock may have jumped, or the service may have been off."""

_LARGEST_EXPONENT = 32  # 2**32 times the first wait exceeds every longest wait; keeps floats finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential back-off up to a longest wait, over days: an upgrade of a PACS takes longer than an hour.

    Parameters
    ----------
    first_s
        Wait after the first failure, in seconds.
    longest_s
        Longest wait, in seconds.
    give_up_after
        Time limit for attempts, counted from when the delivery was queued.
    slow_first_s
        Wait after the first failure that only a person can repair (a rejected association), in seconds.
    checks
        Number of verifications that must find an object absent before it is sent again.
    resends
        Number of such resends. A peer that assigns its own UIDs never holds ours, and would store one more
        object with every resend.
    """

    first_s: float
    longest_s: float
    give_up_after: timedelta
    slow_first_s: float = 300.0
    checks: int = 6
    resends: int = 2

    @classmethod
    def of(cls, settings: DeliverySettings) -> Backoff:
        """Create the policy from the ``delivery`` table of the settings."""
        return cls(
            first_s=settings.retry_first_s,
            longest_s=settings.retry_max_s,
            give_up_after=timedelta(hours=settings.give_up_after_h),
        )

    def wait(self, failures: int, *, draw: float, is_slow: bool = False) -> timedelta:
        """Calculate the wait after a failure.

        Parameters
        ----------
        failures
            Number of failures, this one included; at least 1.
        draw
            Random number in [0, 1). Jitter shortens the wait by up to half, so that deliveries that failed
            together are not retried together.
        is_slow
            Whether only a person can repair the cause.
        """
        first = max(self.first_s, self.slow_first_s) if is_slow else self.first_s
        doubled = first * 2.0 ** min(max(failures, 1) - 1, _LARGEST_EXPONENT)
        return timedelta(seconds=min(doubled, self.longest_s) * (1.0 - 0.5 * draw))

    def next_attempt(
        self, failures: int, *, since: datetime, now: datetime, draw: float, is_slow: bool = False
    ) -> datetime | None:
        """Calculate the time of the next attempt.

        Parameters
        ----------
        failures
            Number of failures, this one included.
        since
            When the delivery was queued, or requeued by an operator.
        now
            The time of this failure.
        draw, is_slow
            As for ``wait``.

        Returns
        -------
        datetime | None
            None: the delivery is given up. The last attempt is made at the time limit, not before it.
        """
        limit = since + self.give_up_after
        planned = now + self.wait(failures, draw=draw, is_slow=is_slow)
        if now < limit:
            return min(planned, limit)
        return planned if failures < FEWEST_FAILURES else None
