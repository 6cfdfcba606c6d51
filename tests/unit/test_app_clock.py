"""Timers on a clock that is set, and on one that keeps daylight saving time."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from apscheduler.job import Job
from apscheduler.schedulers.background import BackgroundScheduler

from app.clock_steps import ClockWatch, Daily, Every

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def ticks(trigger: Daily, start: datetime, count: int) -> list[datetime]:
    """When the trigger ticks, as the scheduler asks it."""
    found: list[datetime] = []
    now = start
    for _ in range(count):
        found.append(trigger.get_next_fire_time(found[-1] if found else None, now))
        now = found[-1]
    return found


@pytest.mark.parametrize("at", ["00:00", "01:59", "02:00", "02:30", "03:00", "12:00", "23:59"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe", "UTC"])
def test_a_daily_timer_ticks_once_on_every_date(at: str, zone: str) -> None:
    """Cairo puts its clocks forward at midnight, Lord Howe Island by half an hour."""
    local = ZoneInfo(zone)
    start = datetime(2026, 1, 1, tzinfo=local) - timedelta(minutes=1)
    days = [tick.astimezone(local).date() for tick in ticks(Daily(at, local), start, 400)]
    assert days == [date(2026, 1, 1) + timedelta(days=number) for number in range(400)]


def test_an_hour_that_is_left_out_is_made_up_for() -> None:
    (tick,) = ticks(Daily("02:30", BERLIN), datetime(2026, 3, 28, 12, tzinfo=BERLIN), 1)
    assert tick.astimezone(UTC) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert tick.astimezone(BERLIN).hour == 3


@pytest.mark.parametrize("trigger", [Every(1.0), Daily("02:30", UTC)], ids=["every", "daily"])
def test_a_jump_ahead_is_one_tick_and_not_one_for_each_second_of_it(trigger: object) -> None:
    """As when a machine starts in 1970 and is told the time."""
    job = Job(
        BackgroundScheduler(),
        id="x",
        func=print,
        trigger=trigger,
        executor="default",
        args=(),
        kwargs={},
        coalesce=True,
        misfire_grace_time=None,
        max_instances=1,
        next_run_time=datetime(1970, 1, 1, tzinfo=UTC),
        name="x",
    )
    started = time.process_time()
    assert len(job._get_run_times(NOON)) == 1
    assert time.process_time() - started < 1.0


def test_after_a_clock_was_set_back_all_is_planned_anew() -> None:
    assert Every(3600).get_next_fire_time(None, NOON) == NOON + timedelta(seconds=5)
    assert Every(3600).get_next_fire_time(NOON, NOON) == NOON + timedelta(hours=1)
    assert Daily("02:30", UTC).get_next_fire_time(None, NOON) == datetime(2026, 3, 2, 2, 30, tzinfo=UTC)


class Clocks:
    def __init__(self) -> None:
        self.wall = NOON
        self.steady = 100.0

    def go_on(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.steady += seconds


def test_a_step_is_noticed_once_and_what_is_none_never() -> None:
    clocks = Clocks()
    watch = ClockWatch(lambda: clocks.wall, lambda: clocks.steady)
    for seconds in (1, 3600, 0.1):
        clocks.go_on(seconds)
        assert watch.step() == timedelta(0)
    clocks.wall += timedelta(days=40)
    clocks.go_on(1)
    assert watch.step() == timedelta(days=40)
    assert watch.step() == timedelta(0)
    clocks.wall -= timedelta(hours=2)
    assert watch.step() == timedelta(hours=-2)
    for _ in range(1000):  # trimmed by one part in a hundred
        clocks.go_on(1)
        clocks.wall += timedelta(seconds=0.01)
        assert watch.step() == timedelta(0)
