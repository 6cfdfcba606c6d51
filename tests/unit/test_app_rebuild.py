"""When a rebuild is due, what is done about one that was killed, and what the audit database says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from app.clock_steps import Daily
from app.rebuild import attempt as attempts
from app.rebuild.data import MANIFEST_FILE, Counts, prepare
from app.rebuild.report import REPORT_FILE
from app.rebuild.schedule import CATCH_UP, Schedule, Start, decide
from config.settings import Settings, load_settings
from cxr.domain import RebuildState
from cxr.errors import ManifestError, MissingRow, SettingsError, StorageError
from db.engine import Database
from db.models import Outcome, RebuildRow, rebuilds
from db.sqlite.driver import sqlite3
from db.upkeep.replay import Difference, differing_rows
from training.cases import complete, read_manifest, write_manifest
from training.recipe import load_recipe

SUNDAY = datetime(2026, 1, 11, 3, tzinfo=UTC)
WEEKLY = Schedule("0 3 * * sun", "UTC")


def all_due(
    schedule: Schedule, start: datetime, days: int, *, every: timedelta = timedelta(minutes=10)
) -> list[datetime]:
    """Look every ten minutes, as the timer does every minute."""
    found, now = [], start
    for _ in range(int(timedelta(days=days) / every)):
        later = now + every
        due = schedule.due(now, later)
        found += [] if due is None else [due]
        now = later
    return found


@pytest.mark.parametrize(
    ("zone", "day", "expected"),
    [
        (
            "Europe/Berlin",
            datetime(2026, 3, 28, tzinfo=UTC),
            ["02:30 +0100", "03:30 +0200", "02:30 +0200"],
        ),  # 02:30 is left out
        (
            "Europe/Berlin",
            datetime(2026, 10, 24, tzinfo=UTC),
            ["02:30 +0200", "02:30 +0200", "02:30 +0100"],
        ),  # and comes twice
        ("America/New_York", datetime(2026, 3, 7, tzinfo=UTC), ["02:30 -0500", "03:30 -0400", "02:30 -0400"]),
        ("UTC", datetime(2026, 3, 28, tzinfo=UTC), ["02:30 +0000"] * 3),
    ],
)
def test_it_is_due_once_a_day_also_when_clocks_change(zone: str, day: datetime, expected: list[str]) -> None:
    start = day.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    found = all_due(Schedule("30 2 * * *", zone), start, 3)
    assert [f"{each.astimezone(ZoneInfo(zone)):%H:%M %z}" for each in found] == expected


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"])
@pytest.mark.parametrize("at", ["00:30", "02:00", "02:30"])
@pytest.mark.parametrize("day", [(3, 1), (9, 1), (10, 2)], ids=str)
def test_a_rebuild_is_due_when_a_daily_timer_of_that_time_fires(zone: str, at: str, day: tuple[int, int]) -> None:
    """One reading of local time for both, on the days that clocks go forward and back, too."""
    local, (hour, minute) = ZoneInfo(zone), at.split(":")
    start = datetime(2026, *day, tzinfo=local)
    due = all_due(
        Schedule(f"{int(minute)} {int(hour)} * * *", zone), start.astimezone(UTC), 62, every=timedelta(hours=3)
    )
    assert len(due) >= 61
    fired, now = [], start - timedelta(seconds=1)
    trigger, previous = Daily(at, local), None
    for _ in due:
        previous = now = trigger.get_next_fire_time(previous, now)
        fired.append(now.astimezone(UTC))
    assert due == fired


def test_the_time_itself_is_due_and_none_is_due_twice() -> None:
    before = SUNDAY - timedelta(seconds=1)
    assert WEEKLY.due(before, SUNDAY) == SUNDAY
    assert WEEKLY.due(SUNDAY, SUNDAY + timedelta(days=6)) is None
    assert WEEKLY.due(before, SUNDAY + timedelta(days=30)) == SUNDAY + timedelta(days=28)  # the latest alone


ROW = RebuildRow(
    id=1, due_at=SUNDAY, state=RebuildState.DONE, attempts=1, run_name="x", error_code=None, images=None,
    new_images=None, fingerprint=None, failed_gates=None, started_at=SUNDAY, ended_at=SUNDAY,
)  # fmt: skip
RUNNING = replace(ROW, state=RebuildState.RUNNING)
WEEK = timedelta(days=7)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Start(SUNDAY)),
        ({"schedule": None}, "wait"),
        ({"now": SUNDAY - timedelta(minutes=1)}, "wait"),
        ({"latest": ROW}, "wait"),
        ({"latest": ROW, "now": SUNDAY + WEEK}, Start(SUNDAY + WEEK)),
        ({"is_child_alive": True}, "wait"),
        ({"is_child_alive": True, "under_way": RUNNING, "latest": RUNNING}, "wait"),
        ({"under_way": RUNNING, "latest": RUNNING}, "resume"),  # the service was killed, or its child
        ({"under_way": RUNNING, "latest": RUNNING, "schedule": None}, "resume"),
        # The service was down when it was due: for a day it is caught up with.
        ({"latest": ROW, "service_started": SUNDAY + WEEK + CATCH_UP / 2, "now": SUNDAY + WEEK + CATCH_UP / 2},
         Start(SUNDAY + WEEK)),
        ({"latest": ROW, "service_started": SUNDAY + WEEK + CATCH_UP, "now": SUNDAY + WEEK + CATCH_UP}, "wait"),
        ({"service_started": SUNDAY + timedelta(hours=1)}, "wait"),  # switched on after the time
        ({"latest": ROW, "now": SUNDAY + 3 * WEEK}, Start(SUNDAY + 3 * WEEK)),  # not one for each that was missed
    ],
)  # fmt: skip
def test_what_is_done_now(changes: dict[str, Any], expected: Any) -> None:
    given: dict[str, Any] = {
        "schedule": WEEKLY, "under_way": None, "latest": None, "is_child_alive": False,
        "service_started": SUNDAY - timedelta(days=1), "now": SUNDAY + timedelta(seconds=30),
    }  # fmt: skip
    given |= changes
    if "now" in changes and "service_started" not in changes:
        given["service_started"] = min(given["service_started"], changes["now"])
    assert decide(**given) == expected


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"cron": "0 3 * * 0", "labels": "l.csv"}, "days of the week are written"),
        ({"cron": "0 3 * *", "labels": "l.csv"}, "five fields"),
        ({"cron": "61 3 * * *", "labels": "l.csv"}, "no number from 0 to 59"),
        ({"cron": "0 3 * * sun", "time_zone": "Mars/Olympus"}, "time zone is a name"),
        ({"cron": "0 3 * * sun"}, "either rebuild.labels or rebuild.manifest"),
        ({"cron": "0 3 * * sun", "labels": "l.csv", "manifest": "m.csv"}, "either rebuild.labels or rebuild.manifest"),
    ],
)
def test_wrong_settings_are_told_at_once(table: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_settings(environ={}, flags={"rebuild": table})


def test_pseudonyms_can_not_be_joined_with_files() -> None:
    flags = {"rebuild": {"cron": "*/5 3-6 1,15 * mon-fri", "labels": "l.csv"}, "audit": {"identifiers": "pseudonym"}}
    with pytest.raises(SettingsError, match=r"rebuild\.manifest"):
        load_settings(environ={}, flags=flags)


def test_it_is_off_by_default() -> None:
    settings = load_settings(environ={})
    assert settings.rebuild.cron is None
    assert settings.runs_dir == Path("var/runs")


# The audit database


def test_one_at_a_time_with_its_events(audit_database: Database, noon: datetime) -> None:
    with audit_database.begin() as session:
        row = rebuilds.begin(session, due_at=noon, run_name="rebuild-1", now=noon)
        assert (row.state, row.attempts) == (RebuildState.RUNNING, 0)
        assert rebuilds.count_attempt(session, row.id) == 1
    with pytest.raises(StorageError, match="one may run at a time"), audit_database.begin() as session:
        rebuilds.begin(session, due_at=noon + WEEK, run_name="rebuild-2", now=noon)
    outcome = Outcome(
        state=RebuildState.DONE, images=300, new_images=120, fingerprint="ab" * 32, failed_gates=["auc", "calibration"]
    )
    with audit_database.begin() as session:
        rebuilds.end(session, row.id, outcome, now=noon + timedelta(hours=2))
    with pytest.raises(MissingRow), audit_database.begin() as session:
        rebuilds.end(session, row.id, outcome, now=noon)
    with audit_database.read() as session:
        assert rebuilds.running(session) is None
        latest = rebuilds.latest(session)
        assert latest is not None
        assert (latest.state, latest.failed_gates, latest.new_images) == (
            RebuildState.DONE, ("auc", "calibration"), 120,
        )  # fmt: skip
        assert rebuilds.count_by_state(session)[RebuildState.DONE] == 1
        assert differing_rows(session) == []
    with closing(sqlite3.connect(audit_database.path)) as connection, connection:
        kinds = connection.execute("SELECT kind, facts FROM events WHERE kind LIKE 'rebuild%' ORDER BY 1").fetchall()
        connection.execute("UPDATE rebuild SET state = 'failed'")
    assert [kind for kind, _ in kinds] == ["rebuild_ended", "rebuild_started"]
    assert json.loads(kinds[0][1])["failed_calibration"] is True
    with audit_database.read() as session:
        assert differing_rows(session) == [Difference(table="rebuild", id=1)]


# The data


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, patients: range, side: str = "") -> Path:
        rows = [
            {
                "image_id": f"institutional:{patient}", "path": f"/images/{patient}.dcm", "source": "institutional",
                "patient_id": f"SYN{patient}", "view": "PA", "split": side,
                "label": "covid19" if patient % 2 else "normal",
            }
            for patient in patients
        ]  # fmt: skip
        (tmp_path / name).mkdir()
        write_manifest(complete(pd.DataFrame(rows)), tmp_path / name / MANIFEST_FILE)
        return tmp_path / name / MANIFEST_FILE

    return write


def test_a_patient_stays_on_the_side_that_it_had(
    manifest: Callable[..., Path], audit_database: Database, tmp_path: Path
) -> None:
    known = [manifest("train", range(20), "train"), manifest("test", range(20, 30), "test")]
    table = {"manifest": str(manifest("all", range(60))), "min_new_images": 30}
    settings = load_settings(environ={}, flags={"rebuild": table})
    folder = tmp_path / "rebuild"
    folder.mkdir()
    recipe = load_recipe("default-finetune", ["split.strategy=patient"])
    for _ in range(2):  # the second attempt finds the manifest of the first
        found = prepare(settings.rebuild, audit_database, tmp_path, folder, recipe, known)
        assert found == Counts(images=60, new_images=30)
    sides = read_manifest(folder / MANIFEST_FILE).set_index("patient_id")["split"]
    assert set(sides[[f"SYN{number}" for number in range(20)]]) == {"train"}
    assert set(sides[[f"SYN{number}" for number in range(20, 30)]]) == {"test"}
    assert set(sides[[f"SYN{number}" for number in range(30, 60)]]) == {"train", "val", "test"}


# One attempt


@pytest.fixture
def site(audit_site: Any, manifest: Callable[..., Path]) -> Settings:
    found = {"manifest": str(manifest("given", range(12))), "min_new_images": 13, "max_attempts": 2, "nice": 0}
    return load_settings(environ={}, flags={"data_dir": str(audit_site.settings.data_dir), "rebuild": found})


def clock() -> datetime:
    return SUNDAY


def test_too_few_images_are_not_worth_it(site: Settings, audit_site: Any) -> None:
    outcome = attempts.attempt(site, due_at=SUNDAY, clock=clock)
    assert outcome == Outcome(state=RebuildState.SKIPPED, error_code="too_few_images", images=12, new_images=12)
    report = (site.runs_dir / "rebuild-20260111T030000Z" / REPORT_FILE).read_text()
    assert "RESEARCH USE ONLY" in report
    assert "12 new labelled images" in report
    with audit_site.database.read() as session:
        latest = rebuilds.latest(session)
        assert latest is not None
        assert (latest.state, latest.error_code, latest.due_at) == (RebuildState.SKIPPED, "too_few_images", SUNDAY)


def test_a_failure_has_a_code_and_changes_nothing_else(site: Settings, audit_site: Any) -> None:
    assert site.rebuild.manifest is not None
    site.rebuild.manifest.write_text("surprise\n")
    outcome = attempts.attempt(site, due_at=None, clock=clock)
    assert outcome == Outcome(state=RebuildState.FAILED, error_code=ManifestError.code)
    assert "`manifest`" in (site.runs_dir / "rebuild-20260111T030000Z" / REPORT_FILE).read_text()
    assert not site.models_dir.exists()
    again = attempts.attempt(site, due_at=SUNDAY + WEEK, clock=lambda: SUNDAY + WEEK)
    assert again is not None
    assert again.state is RebuildState.FAILED


def test_one_that_is_killed_each_time_is_given_up(site: Settings, audit_site: Any) -> None:
    with audit_site.database.begin() as session:
        row = rebuilds.begin(session, due_at=SUNDAY, run_name="rebuild-x", now=SUNDAY)
        for _ in range(site.rebuild.max_attempts):
            rebuilds.count_attempt(session, row.id)
    outcome = attempts.attempt(site, due_at=SUNDAY + WEEK, clock=clock)
    assert outcome == Outcome(state=RebuildState.FAILED, error_code="rebuild_killed")
    assert (site.runs_dir / "rebuild-x" / REPORT_FILE).exists()


def test_two_are_never_at_work(site: Settings, audit_site: Any) -> None:
    site.runs_dir.mkdir()
    with attempts._exclusive_lock(site.runs_dir) as is_locked:
        assert is_locked
        assert attempts.attempt(site, due_at=SUNDAY, clock=clock) is None
    with audit_site.database.read() as session:
        assert rebuilds.latest(session) is None
