"""When a rebuild is due: a cron expression in a stated time zone, without surprises when clocks change.

APScheduler's cron trigger reads the clock on the wall. Where that jumps back, an hour comes twice,
and a time in it counts once here; where it jumps forward, a time that does not exist is due when
the jump is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from db.models import RebuildRow

CATCH_UP: Final = timedelta(days=1)
"""A time that passed while no service ran is caught up with for this long."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression of five fields, and the time zone in which it is read."""

    cron: str
    time_zone: str

    def due(self, after: datetime, until: datetime) -> datetime | None:
        """Find the latest time of the schedule within (after, until], in UTC; None: there is none."""
        zone = ZoneInfo(self.time_zone)
        # On the wall alone, so that the expression never sees an offset; its own zone is UTC's.
        trigger = CronTrigger.from_crontab(self.cron, timezone=UTC)
        wall = after.astimezone(zone).replace(tzinfo=UTC) - timedelta(hours=3)  # more than clocks ever jump back
        found: datetime | None = None
        while True:
            tick = trigger.get_next_fire_time(None, wall + timedelta(microseconds=1))
            if tick is None:
                return found
            moment = _moment(tick.replace(tzinfo=None), zone)
            if moment > until:
                return found
            if moment > after:
                found = moment
            wall = tick


def _moment(wall: datetime, zone: ZoneInfo) -> datetime:
    """Turn a time on the wall into UTC: the first of two, or the end of the jump over it."""
    first = wall.replace(tzinfo=zone).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == wall:
        return first
    # With the offset from before the jump (fold 0) it lies as far behind the jump as it lay within it.
    later = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    low, high = min(first, later), max(first, later)
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        if middle.astimezone(zone).utcoffset() == low.astimezone(zone).utcoffset():
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a rebuild for this time of the schedule."""

    due_at: datetime


Decision = Start | Literal["resume", "wait"]


def decide(
    schedule: Schedule | None,
    *,
    under_way: RebuildRow | None,
    latest: RebuildRow | None,
    is_child_alive: bool,
    service_started: datetime,
    now: datetime,
) -> Decision:
    """Decide what the holder of the maintenance lease does now.

    Parameters
    ----------
    schedule
        None: it is switched off. What is under way is then still brought to its end.
    under_way, latest
        Rows of the audit database.
    is_child_alive
        Whether this process has one at work.
    service_started
        Times of the schedule before it are caught up with only where a rebuild was ever done.
    now
        The time.

    Returns
    -------
    Decision
        ``resume``: a rebuild is under way and this process has no child at work on it.
    """
    if is_child_alive:
        return "wait"
    if under_way is not None:
        return "resume"
    if schedule is None:
        return "wait"
    since = service_started if latest is None else max(latest.due_at, now - CATCH_UP)
    due = schedule.due(since, now)
    return "wait" if due is None else Start(due)
