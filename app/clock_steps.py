"""Triggers of timers that survive a step of the system clock, and the detection of such a step.

APScheduler's own triggers fire for every interval that a step of the clock skipped (one a second over years exhausts
the memory), and its daily trigger fires twice or not at all on the days on which daylight saving time begins or ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo

from apscheduler.triggers.base import BaseTrigger

TOLERANCE = timedelta(seconds=2)
"""Smaller differences are corrections of the clock rate, no step."""

SOON = timedelta(seconds=5)
"""Longest wait for the first firing after the start or after the clock was set back."""


def to_utc(local: datetime, zone: tzinfo) -> datetime:
    """Return the moment of a local time in UTC.

    Of a repeated time take the first. Shift a skipped time forward by the length of the gap (02:30 becomes 03:30). Both
    follow PEP 495 for ``fold=0``.

    Parameters
    ----------
    local
        Date and time; its time zone is ignored.
    zone
        Time zone of ``local``.
    """
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)


class Every(BaseTrigger):  # type: ignore[misc]
    """Fire a fixed time after the last firing, once for all that were missed.

    Parameters
    ----------
    seconds
        The interval.
    """

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the next firing, counted from now; the first one comes soon."""
        return now + (self._interval if previous_fire_time else min(self._interval, SOON))


class Daily(BaseTrigger):  # type: ignore[misc]
    """Fire once on every date of the local calendar, also when the hour is repeated or skipped.

    Parameters
    ----------
    at
        Local time, ``HH:MM``; see `to_utc` for a day on which it is skipped.
    zone
        Time zone of ``at``.
    """

    def __init__(self, at: str, zone: tzinfo) -> None:
        self._at = datetime.strptime(at, "%H:%M").time()  # noqa: DTZ007 (a time of day)
        self._zone = zone

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the next firing: later than now, and not on the date of the last."""
        today = now.astimezone(self._zone).date()
        if previous_fire_time is not None:
            today = max(today, previous_fire_time.astimezone(self._zone).date() + timedelta(days=1))
        planned = self._on(today)
        return planned if planned > now else self._on(today + timedelta(days=1))

    def _on(self, day: date) -> datetime:
        return to_utc(datetime.combine(day, self._at), self._zone).astimezone(self._zone)


class ClockWatch:
    """Detect a step of the system clock against a monotonic clock.

    Parameters
    ----------
    clock
        The time, as an aware datetime.
    monotonic
        Seconds of a clock that is never set.
    """

    def __init__(self, clock: Callable[[], datetime], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._difference = self._measure()

    def step(self) -> timedelta:
        """Return by how much the clock was set since the last call: positive forward, 0 if it was not."""
        before, self._difference = self._difference, self._measure()
        step = self._difference - before
        return step if abs(step) >= TOLERANCE else timedelta(0)

    def _measure(self) -> timedelta:
        return self._clock() - datetime(1970, 1, 1, tzinfo=UTC) - timedelta(seconds=self._monotonic())
