"""Due times of rebuilds: a cron expression in a stated time zone.

APScheduler's cron trigger works on local time. A local time that is repeated, when clocks go back, is due once; for a
local time that is skipped, see `app.clock_steps.to_utc`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from app.clock_steps import to_utc
from db.models import RebuildRow

CATCH_UP: Final = timedelta(days=1)
"""Age up to which a scheduled time that passed while no service ran still starts a rebuild."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression of five fields in a time zone."""

    cron: str
    time_zone: str

    def due(self, after: datetime, until: datetime) -> datetime | None:
        """Find the latest time of the schedule within (after, until], in UTC; None: there is none."""
        zone = ZoneInfo(self.time_zone)
        # Local time without an offset, which the trigger takes for UTC.
        trigger = CronTrigger.from_crontab(self.cron, timezone=UTC)
        local = after.astimezone(zone).replace(tzinfo=UTC) - timedelta(hours=3)  # more than clocks ever jump back
        latest: datetime | None = None
        while True:
            tick = trigger.get_next_fire_time(None, local + timedelta(microseconds=1))
            if tick is None:
                return latest
            moment = to_utc(tick, zone)
            if moment > until:
                return latest
            if moment > after:
                latest = moment
            local = tick


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
    """Decide whether to begin or resume a rebuild now, or to wait.

    Parameters
    ----------
    schedule
        None: switched off; an unfinished rebuild is still resumed.
    under_way, latest
        Rows of the audit database.
    is_child_alive
        Whether a child of this process runs a rebuild.
    service_started
        Scheduled times before it are caught up with only if a rebuild was recorded before.
    now
        Current time; aware.

    Returns
    -------
    Decision
        ``resume``: a rebuild is unfinished and no child of this process runs it.
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
