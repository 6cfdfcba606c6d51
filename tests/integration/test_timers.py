"""APScheduler's timers over a real database: one holder, and what each of them does."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import Comprehensive3DSRStorage

from app.timers import Timers
from config.settings import Settings, load_settings
from db import images, jobs
from db.audit import EventKind
from db.backup import list_backups
from db.engine import Database, open_database
from db.records import ReportRecord
from db.spool import Spool
from inference.delivery.sender import Sender


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "out").mkdir()
    return load_settings(
        environ={},
        flags={
            "data_dir": str(tmp_path / "var"),
            "audit": {"snapshot_every_s": 1},
            "destinations": [{"name": "out", "kind": "folder", "address": str(tmp_path / "out"), "verify_after_s": 0}],
        },
    )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    opened = open_database(settings.database_path, settings.audit_key_path, create=True)
    yield opened
    opened.dispose()


@pytest.fixture
def spool(settings: Settings, database: Database) -> Spool:
    made = Spool(settings.spool_dir, min_free_mib=1)
    made.prepare()
    return made


@pytest.fixture
def start(settings: Settings, database: Database, spool: Spool) -> Iterator[Callable[[str], Timers]]:
    """Start the timers of one worker process, by its name; they stop with the test."""
    started: dict[str, Timers] = {}

    def make(holder: str) -> Timers:
        senders = [
            Sender(
                destination,
                database=database,
                spool=spool,
                settings=settings.delivery,
                calling_ae_title="CXR",
                clock=now,
            )
            for destination in settings.destinations
        ]
        started[holder] = Timers(
            settings=settings,
            database=database,
            spool=spool,
            senders=senders,
            holder=holder,
            clock=now,
            lease_ttl_s=1.5,
        )
        started[holder].start()
        return started[holder]

    yield make
    for timers in started.values():
        if timers.is_running:
            timers.stop()


def test_one_of_two_holds_and_the_other_takes_over(start: Callable[[str], Timers], wait_for: Any) -> None:
    first, second = start("a"), start("b")
    assert (first.is_holder, second.is_holder) == (True, False)
    first.stop()
    wait_for(lambda: second.is_holder, "the second takes over", 20)


def test_report_is_delivered_when_woken(
    start: Callable[[str], Timers],
    settings: Settings,
    database: Database,
    spool: Spool,
    make_receipt: Any,
    make_scored: Any,
    wait_for: Any,
    tmp_path: Path,
    synthetic_xray: Any,
) -> None:
    timers = start("a")
    buffer = io.BytesIO()
    synthetic_xray().save_as(buffer, enforce_file_format=True)
    report = ReportRecord(
        kind="sr",
        sop_class_uid=Comprehensive3DSRStorage,
        sop_instance_uid="2.25.1",
        series_instance_uid="2.25.2",
        spool_name=spool.write(buffer.getvalue(), suffix=".dcm"),
        content_digest="ab" * 32,
        created_at=now(),
    )
    with database.begin() as session:
        images.receive(session, make_receipt(received_at=now()), now=now())
    with database.begin() as session:
        (job,) = jobs.claim(session, worker_id="w", limit=1, now=now(), lease_s=60)
        jobs.finish(
            session,
            job.id,
            worker_id="w",
            scored=make_scored(covid19=0.5),
            reports=[report],
            destinations=["out"],
            now=now(),
        )
    timers.wake_delivery()
    wait_for(lambda: list((tmp_path / "out").rglob("*.dcm")), "the report lies in the folder", 30)


def test_expired_lease_is_released(
    start: Callable[[str], Timers], database: Database, make_receipt: Any, wait_for: Any
) -> None:
    with database.begin() as session:
        images.receive(session, make_receipt(received_at=now()), now=now())
    with database.begin() as session:
        assert jobs.claim(session, worker_id="killed", limit=1, now=now() - timedelta(hours=1), lease_s=5)
    start("a")

    def is_queued() -> bool:
        with database.read() as session:
            (row,) = jobs.list_jobs(session, state=None, limit=1)
            return row.state.value == "queued"

    wait_for(is_queued, "the job is queued again", 30)


def test_snapshot_backup_check_and_head_are_made(
    start: Callable[[str], Timers], settings: Settings, database: Database, wait_for: Any
) -> None:
    timers = start("a")
    wait_for(settings.snapshot_path.exists, "the snapshot", 30)
    wait_for(settings.audit_heads_path.exists, "the exported head", 30)
    timers.run_now("backup")
    wait_for(lambda: list_backups(settings.backup_dir), "the backup", 30)

    def checked() -> bool:
        with closing(sqlite3.connect(settings.database_path)) as connection:
            kinds = {kind for (kind,) in connection.execute("SELECT DISTINCT kind FROM events")}
        return EventKind.INTEGRITY_CHECKED.value in kinds

    wait_for(checked, "the integrity check's event", 30)
