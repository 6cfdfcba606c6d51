"""Timers on a clock that may be set: when they tick, and how a step of the clock is noticed.

APScheduler's own triggers count every tick that a clock has jumped over (one a second, over years, is
more than a machine's memory holds), and around the ends of daylight saving time its daily one ticks
twice or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo

from apscheduler.triggers.base import BaseTrigger

TOLERANCE = timedelta(seconds=2)
"""By less, a clock is trimmed and not set."""

SOON = timedelta(seconds=5)
"""After the start, or after a clock was set back, nothing waits longer for its tick."""


class Every(BaseTrigger):  # type: ignore[misc]
    """Ticks a fixed time after the last tick, once for all that was missed.

    Parameters
    ----------
    seconds
        The time.
    """

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Plan the next tick from now on, whatever was missed; the first one soon."""
        return now + (self._interval if previous_fire_time else min(self._interval, SOON))


class Daily(BaseTrigger):  # type: ignore[misc]
    """Ticks once on every date of the local calendar, also where the hour comes twice, or not at all.

    Parameters
    ----------
    at
        Local time, ``HH:MM``. On a day that leaves it out: as much later as the clock is put forward.
    zone
        Whose local time.
    """

    def __init__(self, at: str, zone: tzinfo) -> None:
        self._at = datetime.strptime(at, "%H:%M").time()  # noqa: DTZ007 (a time of day)
        self._zone = zone

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Plan the next tick: later than now, and not on the date of the last one."""
        today = now.astimezone(self._zone).date()
        if previous_fire_time is not None:
            today = max(today, previous_fire_time.astimezone(self._zone).date() + timedelta(days=1))
        planned = self._on(today)
        return planned if planned > now else self._on(today + timedelta(days=1))

    def _on(self, day: date) -> datetime:
        # Through UTC: a time that the day leaves out becomes one that it has.
        return datetime.combine(day, self._at, self._zone).astimezone(UTC).astimezone(self._zone)


class ClockWatch:
    """Notices that the clock was set, by one that can't be.

    Parameters
    ----------
    clock
        The time, as an aware datetime.
    monotonic
        Seconds of a clock that never steps.
    """

    def __init__(self, clock: Callable[[], datetime], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._difference = self._measure()

    def step(self) -> timedelta:
        """Return how far the clock was set since the last call; ahead is positive, 0 is not at all."""
        before, self._difference = self._difference, self._measure()
        step = self._difference - before
        return step if abs(step) >= TOLERANCE else timedelta(0)

    def _measure(self) -> timedelta:
        return self._clock() - datetime(1970, 1, 1, tzinfo=UTC) - timedelta(seconds=self._monotonic())
