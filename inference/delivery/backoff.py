"""When a delivery is tried again, and when no more: a policy as a value, without clock or chance of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.settings import DeliverySettings

FEWEST_FAILURES = 5
"""However late it is, nothing is given up before: a clock may have jumped, or the service been off for long."""

_LARGEST_EXPONENT = 32  # 2**32 times any first wait is beyond any longest wait; keeps floats finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits that double up to a longest one, for days: an upgrade of a PACS outlasts an hour.

    Parameters
    ----------
    first_s
        Wait after the first failure, in seconds.
    longest_s
        Longest wait, in seconds.
    give_up_after
        How long a delivery is tried, from when it was queued.
    slow_first_s
        Wait after the first failure that only a person can mend (a rejected association), in seconds.
    checks
        How often an object is looked for at a destination before it is sent once more.
    resends
        How often it is sent once more. A peer that gives objects UIDs of its own never has ours, and
        would gain one with every resend.
    """

    first_s: float
    longest_s: float
    give_up_after: timedelta
    slow_first_s: float = 300.0
    checks: int = 6
    resends: int = 2

    @classmethod
    def of(cls, settings: DeliverySettings) -> Backoff:
        """Take the policy from the settings' ``delivery`` table."""
        return cls(
            first_s=settings.retry_first_s,
            longest_s=settings.retry_max_s,
            give_up_after=timedelta(hours=settings.give_up_after_h),
        )

    def wait(self, failures: int, *, draw: float, is_slow: bool = False) -> timedelta:
        """Choose the wait after a failure.

        Parameters
        ----------
        failures
            How many there were, this one included; at least 1.
        draw
            A random number in [0, 1): jitter takes up to half of the wait away, so that what failed
            together does not come back together.
        is_slow
            Whether only a person can mend the cause.
        """
        first = max(self.first_s, self.slow_first_s) if is_slow else self.first_s
        doubled = first * 2.0 ** min(max(failures, 1) - 1, _LARGEST_EXPONENT)
        return timedelta(seconds=min(doubled, self.longest_s) * (1.0 - 0.5 * draw))

    def next_attempt(
        self, failures: int, *, since: datetime, now: datetime, draw: float, is_slow: bool = False
    ) -> datetime | None:
        """Choose the time of the next attempt.

        Parameters
        ----------
        failures
            How many there were, this one included.
        since
            When the delivery was queued, or requeued by an operator.
        now
            The time of this failure.
        draw, is_slow
            As for ``wait``.

        Returns
        -------
        datetime | None
            None: given up. The last attempt is made at the limit, not before it.
        """
        limit = since + self.give_up_after
        planned = now + self.wait(failures, draw=draw, is_slow=is_slow)
        if now < limit:
            return min(planned, limit)
        return planned if failures < FEWEST_FAILURES else None
