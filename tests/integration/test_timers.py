"""APScheduler's timers over a real database: one holder, and what each of them does."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import Comprehensive3DSRStorage
from sqlalchemy import Engine, event

from app.timers import Timers
from config.settings import DestinationSettings, Settings, load_settings
from db import deliveries, images, jobs
from db.disk import Spool
from db.engine import Database, open_database
from db.events import EventKind
from db.images import commitments
from db.images.commitments import Reference
from db.schema.records import ReportRecord
from db.sqlite.driver import sqlite3
from db.upkeep.backup import list_backups
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

    def make(holder: str, clock: Callable[[], datetime] = now) -> Timers:
        senders = [
            Sender(
                destination,
                database=database,
                spool=spool,
                settings=settings.delivery,
                calling_ae_title="CXR",
            )
            for destination in settings.destinations
        ]
        started[holder] = Timers(
            settings=settings,
            database=database,
            spool=spool,
            senders=senders,
            holder=holder,
            clock=clock,
            lease_ttl_s=1.5,
        )
        started[holder].start()
        return started[holder]

    yield make
    for timers in started.values():
        if timers.is_running:
            timers.stop()


def test_an_idle_service_asks_for_commitments_only_after_a_commit(
    settings: Settings, database: Database, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.sqlite.changes.REST_S", 1e9)
    timers = Timers(settings=settings, database=database, spool=spool, senders=[], holder="a", clock=now)
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        if "FROM commitment" in statement:
            asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        for _ in range(5):
            timers._report_commitments()
        assert len(asked) == 1
        reference = Reference(sop_class_uid="1.2", sop_instance_uid="1.3")
        with database.begin() as session:
            commitments.request(
                session,
                peer_ae_title="PACS",
                transaction_uid="1.4",
                references=[reference],
                due_at=now(),
                now=now(),
            )
        timers._report_commitments()
        assert len(asked) > 1
        with database.read() as session:  # there is no address for a report to this peer
            assert not commitments.is_any_due(session, now())
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_one_of_two_holds_and_the_other_takes_over(start: Callable[[str], Timers], wait_for: Any) -> None:
    first, second = start("a"), start("b")
    assert (first.is_holder, second.is_holder) == (True, False)
    first.stop()
    wait_for(lambda: second.is_holder, "the second takes over", 20)


def _report(
    database: Database,
    spool: Spool,
    make_receipt: Any,
    make_scored: Any,
    synthetic_xray: Any,
    seed: int,
    destinations: list[str],
) -> None:
    """Take an image through its states up to a report for these destinations."""
    buffer = io.BytesIO()
    synthetic_xray(seed=seed).save_as(buffer, enforce_file_format=True)
    report = ReportRecord(
        kind="sr",
        sop_class_uid=Comprehensive3DSRStorage,
        sop_instance_uid=f"2.25.1{seed}",
        series_instance_uid=f"2.25.2{seed}",
        spool_name=spool.write(buffer.getvalue(), suffix=".dcm"),
        content_digest="ab" * 32,
        created_at=now(),
    )
    with database.begin() as session:
        images.receive(session, make_receipt(seed, received_at=now()), now=now())
    with database.begin() as session:
        (job,) = jobs.claim(session, worker_id="w", limit=1, now=now(), lease_s=60)
        jobs.finish(
            session,
            job.id,
            worker_id="w",
            scored=make_scored(covid19=0.5),
            reports=[report],
            destinations=destinations,
            now=now(),
        )


@pytest.fixture
def hanging(settings: Settings) -> Iterator[socket.socket]:
    """A first destination that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"PEER@127.0.0.1:{silent.getsockname()[1]}"
        first = DestinationSettings(name="hanging", kind="dicom", address=address, timeout_s=120)
        object.__setattr__(settings, "destinations", (first, *settings.destinations))
        yield silent


def test_a_destination_that_hangs_holds_up_no_other_and_no_timer(
    hanging: socket.socket,
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
    for seed in range(3):
        _report(database, spool, make_receipt, make_scored, synthetic_xray, seed, ["hanging", "out"])
        timers.wake_delivery()
        wait_for(lambda: len(list((tmp_path / "out").rglob("*.dcm"))) == seed + 1, "the other has the report", 120)  # noqa: B023
    with database.read() as session:
        states = {row.state.value for row in deliveries.list_deliveries(session, destination="hanging")}
    assert states == {"pending"}

    def made() -> float:
        return settings.snapshot_path.stat().st_mtime if settings.snapshot_path.exists() else 0.0

    before = made()
    _report(database, spool, make_receipt, make_scored, synthetic_xray, 9, ["out"])
    wait_for(lambda: made() > before, "the timers go on", 120)
    hanging.close()  # or the end would wait for the answer as long as delivery does


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
    _report(database, spool, make_receipt, make_scored, synthetic_xray, 0, ["out"])
    timers.wake_delivery()
    wait_for(lambda: list((tmp_path / "out").rglob("*.dcm")), "the report lies in the folder", 120)


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

    wait_for(is_queued, "the job is queued again", 120)


def test_snapshot_backup_check_and_head_are_made(
    start: Callable[[str], Timers], settings: Settings, database: Database, wait_for: Any
) -> None:
    timers = start("a")
    wait_for(settings.snapshot_path.exists, "the snapshot", 120)
    wait_for(settings.audit_heads_path.exists, "the exported head", 120)
    timers.run_now("backup")
    wait_for(lambda: list_backups(settings.backup_dir), "the backup", 120)

    def checked() -> bool:
        with closing(sqlite3.connect(settings.database_path)) as connection:
            kinds = {kind for (kind,) in connection.execute("SELECT DISTINCT kind FROM events")}
        return EventKind.INTEGRITY_CHECKED.value in kinds

    wait_for(checked, "the integrity check's event", 120)


class SettableClock:
    """The clock of the process, which can be set; APScheduler reads it too."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return now() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SettableClock:
    made = SettableClock()

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + made.ahead

    monkeypatch.setattr("apscheduler.schedulers.base.datetime", Shifted)
    return made


@pytest.mark.parametrize("step", [timedelta(hours=-1), timedelta(days=-9000), timedelta(hours=1), timedelta(days=9000)])
def test_a_clock_that_is_set_stops_no_timer(
    start: Callable[..., Timers],
    settings: Settings,
    database: Database,
    clock: SettableClock,
    make_receipt: Any,
    wait_for: Any,
    step: timedelta,
) -> None:
    timers = start("a", clock)
    with database.begin() as session:
        images.receive(session, make_receipt(received_at=clock()), now=clock())
        assert jobs.claim(session, worker_id="killed", limit=1, now=clock(), lease_s=settings.worker.lease_s)

    def in_snapshot() -> int:
        with closing(sqlite3.connect(settings.snapshot_path)) as connection:
            return int(connection.execute("SELECT count(*) FROM images").fetchone()[0])

    wait_for(lambda: settings.snapshot_path.exists() and in_snapshot() == 1, "the timers run", 120)
    clock.ahead = step
    with database.begin() as session:
        images.receive(session, make_receipt(1, received_at=clock()), now=clock())
    wait_for(lambda: in_snapshot() == 2, "the timers go on", 120)
    wait_for(lambda: timers.is_holder, "this process holds the lease", 120)
    if step < timedelta(0):
        longest = clock() + timedelta(seconds=settings.worker.lease_s)
        with closing(sqlite3.connect(settings.database_path)) as connection:
            query = "SELECT lease_until FROM job WHERE worker_id = 'killed'"

            def ends() -> datetime:
                return datetime.fromisoformat(connection.execute(query).fetchone()[0]).replace(tzinfo=UTC)

            wait_for(lambda: ends() <= longest + timedelta(seconds=30), "the lease of the dead worker ends", 180)


def test_a_clock_that_jumps_ahead_takes_no_job_from_a_living_worker(
    start: Callable[..., Timers],
    settings: Settings,
    database: Database,
    clock: SettableClock,
    make_receipt: Any,
    wait_for: Any,
) -> None:
    timers = start("a", clock)
    with database.begin() as session:
        images.receive(session, make_receipt(received_at=clock()), now=clock())
        (job,) = jobs.claim(session, worker_id="w", limit=1, now=clock(), lease_s=settings.worker.lease_s)
    clock.ahead = timedelta(days=40)
    wait_for(lambda: timers._jumped_at > float("-inf"), "the step is noticed")
    timers._release_expired()
    with database.begin() as session:
        assert jobs.renew(session, [job.id], worker_id="w", now=clock(), lease_s=60) == {job.id}


def test_a_clock_that_jumps_ahead_removes_no_pixels_for_an_hour(
    start: Callable[..., Timers],
    settings: Settings,
    database: Database,
    spool: Spool,
    clock: SettableClock,
    make_receipt: Any,
    wait_for: Any,
) -> None:
    from cxr.domain import JobState

    name = spool.write(b"pixels", suffix=".dcm")
    timers = start("a", clock)
    with database.begin() as session:
        receipt = make_receipt(received_at=clock(), spool_name=name, initial_state=JobState.NOT_SCORED)
        images.receive(session, receipt, now=clock())
    clock.ahead = timedelta(days=4000)
    wait_for(lambda: timers._jumped_at > float("-inf"), "the step is noticed")
    timers._retain()
    assert spool.path(name).exists()
    timers._jumped_at -= 3601
    timers._retain()
    assert not spool.path(name).exists()
