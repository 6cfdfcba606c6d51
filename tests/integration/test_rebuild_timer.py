"""The rebuild's timer with real child processes: when one is started, that there is one, and how it ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from app.rebuild.timer import RebuildTimer
from config.settings import Settings, load_settings
from cxr.domain import RebuildState
from db.engine import Database, open_database
from db.models import RebuildRow, rebuilds
from training.cases import complete, write_manifest

SUNDAY = datetime(2026, 1, 11, 3, tzinfo=UTC)


class Clock:
    """A time that stands until it is set."""

    def __init__(self) -> None:
        self.now = SUNDAY - timedelta(hours=1)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings in a file, which the child reads too: twelve labelled images, of which it wants more."""
    rows = [
        {"image_id": str(number), "path": f"{number}.dcm", "patient_id": str(number), "view": "PA", "label": label}
        for number, label in enumerate(["covid19", "normal"] * 6)
    ]
    write_manifest(complete(pd.DataFrame(rows)), tmp_path / "manifest.csv")
    (tmp_path / "cxr.toml").write_text(
        f'data_dir = "{tmp_path}/var"\n'
        f'[rebuild]\ncron = "0 3 * * sun"\nmanifest = "{tmp_path}/manifest.csv"\nmin_new_images = 13\nnice = 1\n'
    )
    return load_settings(tmp_path / "cxr.toml", environ={})


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    opened = open_database(settings.database_path, settings.audit_key_path, create=True)
    yield opened
    opened.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timer(settings: Settings, database: Database, clock: Clock, tmp_path: Path) -> Iterator[RebuildTimer]:
    arguments = ["--config", str(tmp_path / "cxr.toml")]
    made = RebuildTimer(settings=settings.rebuild, database=database, arguments=arguments, clock=clock)
    yield made
    made.stop()


def rows(database: Database) -> list[RebuildRow]:
    with database.read() as session:
        return rebuilds._rows(session, state=None)


def test_one_child_for_one_time_of_the_schedule(
    timer: RebuildTimer, database: Database, clock: Clock, wait_for: Callable[..., Any]
) -> None:
    timer.tick()
    assert timer._child is None
    clock.now = SUNDAY + timedelta(seconds=20)
    timer.tick()
    first = timer._child
    assert first is not None
    os.kill(first.pid, signal.SIGSTOP)  # slow work
    timer.tick()
    assert timer._child is first
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait(200) == 0
    (row,) = rows(database)
    assert (row.state, row.error_code, row.due_at) == (RebuildState.SKIPPED, "too_few_images", SUNDAY)
    clock.now += timedelta(days=6)
    timer.tick()
    assert timer._child is first  # nothing is due before the next Sunday


def test_a_child_that_was_killed_is_taken_up_again_and_a_stop_costs_no_attempt(
    timer: RebuildTimer, settings: Settings, database: Database, clock: Clock, wait_for: Callable[..., Any]
) -> None:
    with database.begin() as session:  # what a kill -9 of service and child leaves
        row = rebuilds.begin(session, due_at=SUNDAY, run_name="rebuild-x", now=SUNDAY)
        assert rebuilds.count_attempt(session, row.id) == 1
    assert settings.rebuild.manifest is not None
    settings.rebuild.manifest.unlink()
    os.mkfifo(settings.rebuild.manifest)  # nobody writes: the child waits for its data
    timer.tick()
    wait_for(lambda: rows(database)[0].attempts == 2, "the child has taken it up", 200)
    child = timer._child
    assert child is not None
    started = time.monotonic()
    timer.stop()
    assert child.poll() is not None
    assert time.monotonic() - started < 60
    (row,) = rows(database)
    assert (row.state, row.attempts) == (RebuildState.RUNNING, 1)
