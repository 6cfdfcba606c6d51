"""What is forgotten when, and what never."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from config.settings import RetentionSettings
from cxr.domain import DeliveryState, JobState
from cxr.errors import StorageError
from db import deliveries, jobs
from db.disk import SweepResult
from db.jobs import operator_actions
from db.schema.tables import Event, Image, Job, Report
from db.upkeep import integrity, retention
from db.upkeep.retention import RemovedFiles

KEEP = RetentionSettings(pixels_days=30, results_days=365, low_space_mib=0)


def enforce(site: Any, **settings: Any) -> RemovedFiles:
    return retention.enforce(site.database, site.spool, KEEP.model_copy(update=settings), now=site.now)


def events(site: Any, kind: str) -> list[tuple[int | None, int | None, str]]:
    with site.database.read() as session:
        rows = session.execute(
            select(Event.image_id, Event.report_id, Event.facts).where(Event.kind == kind).order_by(Event.id)
        )
        # Without the seals of the rows (test_db_seals).
        return [(row.image_id, row.report_id, re.sub(r'"row_\w+":"\w+",?', "", row.facts)) for row in rows]


def has_pixels(site: Any) -> list[int]:
    """Images whose row names a file; the file must be there."""
    with site.database.read() as session:
        rows = session.execute(select(Image.id, Image.spool_name).where(Image.spool_name.is_not(None)))
        named = {row.id: row.spool_name for row in rows}
    assert all(site.spool.path(name).exists() for name in named.values())
    return sorted(named)


def report_files(site: Any) -> int:
    return sum(name.startswith("reports/") for name in site.spool.names())


def test_finished_pixels_go_after_their_days_and_the_rows_stay(audit_site: Any) -> None:
    image = audit_site.receive(1)
    audit_site.score()
    path = audit_site.pixels(image)

    audit_site.later(days=29.9)
    assert enforce(audit_site) == RemovedFiles()
    assert path.exists()

    audit_site.later(days=0.2)
    assert enforce(audit_site) == RemovedFiles(pixels=1)
    assert not path.exists()
    assert enforce(audit_site) == RemovedFiles()
    with audit_site.database.read() as session:
        row = session.get_one(Image, image.image_id)
        assert (row.spool_name, row.pixels_removed_at) == (None, audit_site.now)
        assert row.pixel_digest is not None
    assert events(audit_site, "pixels_removed") == [(1, None, '{"why":"age"}')]
    assert integrity.check(audit_site.database, audit_site.spool).faults == ()


def test_days_count_from_the_end_of_the_work_not_from_the_receipt(audit_site: Any) -> None:
    image = audit_site.receive(1)
    audit_site.later(days=100)
    audit_site.score()
    assert enforce(audit_site) == RemovedFiles()
    assert has_pixels(audit_site) == [image.image_id]


def test_zero_days_is_as_soon_as_finished(audit_site: Any) -> None:
    audit_site.receive(1)
    audit_site.score()
    assert enforce(audit_site, pixels_days=0) == RemovedFiles(pixels=1)


@pytest.mark.parametrize("settings", [{"pixels_days": 0}, {"low_space_mib": 10**12}])
def test_what_is_not_finished_is_never_touched(audit_site: Any, settings: dict[str, Any]) -> None:
    """Queued, being scored, held, failed: all four keep their pixels, whatever the age or the space."""
    audit_site.receive(1)
    audit_site.fail()
    audit_site.receive(2, state=JobState.HELD)
    audit_site.receive(3)
    with audit_site.database.begin() as session:
        jobs.claim(session, worker_id="other", limit=1, now=audit_site.now, lease_s=1)
    audit_site.receive(4)
    with audit_site.database.read() as session:
        states = set(session.scalars(select(Job.state)))
    assert states == {JobState.FAILED, JobState.HELD, JobState.SCORING, JobState.QUEUED}
    audit_site.later(days=1000)
    assert enforce(audit_site, **settings) == RemovedFiles()
    assert has_pixels(audit_site) == [1, 2, 3, 4]


def test_many_go_in_small_transactions(audit_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_BATCH", 3)
    for seed in range(8):
        audit_site.receive(seed)
    audit_site.score()
    assert enforce(audit_site, pixels_days=0) == RemovedFiles(pixels=8)
    assert has_pixels(audit_site) == []
    assert len(events(audit_site, "pixels_removed")) == 8


def test_a_file_that_is_gone_already_is_written_off(audit_site: Any) -> None:
    """What a kill between the removal and the commit leaves: the next run ends it."""
    image = audit_site.receive(1)
    audit_site.score()
    audit_site.pixels(image).unlink()
    assert enforce(audit_site, pixels_days=0) == RemovedFiles(pixels=1)
    assert integrity.check(audit_site.database, audit_site.spool).ok


def test_low_space_takes_the_oldest_finished_until_there_is_enough(tmp_path: Path, new_site: Path) -> None:
    """On a real small disk, so that removing a file frees real space."""
    unshare = shutil.which("unshare")
    disk = tmp_path / "disk"
    disk.mkdir()
    probe = ["-rm", "mount", "-t", "tmpfs", "none", str(disk)]
    if unshare is None or subprocess.run([unshare, *probe], capture_output=True, check=False).returncode != 0:
        pytest.skip("no user namespaces here (unshare -rm): a real small disk can't be made")
    script = """
import sys
from datetime import timedelta
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import conftest
from config.settings import RetentionSettings, Settings
from db.upkeep import retention
from db.engine import open_database
from db.disk.spool import Spool

retention._BATCH = 1
settings = Settings(data_dir=Path(sys.argv[1]))
database = open_database(settings.database_path, settings.audit_key_path, create=True)
spool = Spool(settings.spool_dir, min_free_mib=0)
spool.prepare()
site = conftest.AuditSite(settings, database, spool)
for seed in range(5):
    site.receive(seed, content=bytes(4 << 20))
    site.later(minutes=1)
site.score()
free = spool.free_mib()
bound = RetentionSettings(pixels_days=30, results_days=365, low_space_mib=free + 6)
removed = retention.enforce(database, spool, bound, now=site.now)
with database.read() as session:
    left = session.scalars(retention.select(retention.Image.id).where(retention.Image.spool_name.is_not(None))).all()
print(removed.pixels, sorted(left), spool.free_mib() >= free + 6)
"""
    mounted = [unshare, "-rm", "sh", "-c", 'mount -t tmpfs -o size=64m none "$0" && exec "$@"', str(disk)]
    done = subprocess.run(
        [*mounted, sys.executable, "-c", script, str(disk / "var"), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "2 [3, 4, 5] True\n"), done.stderr


# Results


def test_results_that_arrived_go_after_their_days(audit_site: Any) -> None:
    audit_site.receive(1)
    audit_site.score(destinations=["pacs", "archive"])
    audit_site.deliver(outcome=DeliveryState.VERIFIED)
    audit_site.later(days=364)
    assert enforce(audit_site, pixels_days=1000) == RemovedFiles()
    audit_site.later(days=2)
    assert enforce(audit_site, pixels_days=1000) == RemovedFiles(reports=1)
    assert report_files(audit_site) == 0
    assert events(audit_site, "report_removed") == [(None, 1, "{}")]
    with audit_site.database.read() as session:
        row = session.get_one(Report, 1)
        assert (row.spool_name, row.removed_at) == (None, audit_site.now)
    assert enforce(audit_site, pixels_days=1000) == RemovedFiles()
    assert integrity.check(audit_site.database, audit_site.spool).ok


def test_sent_to_a_peer_that_is_not_asked_is_arrived(audit_site: Any) -> None:
    audit_site.receive(1)
    audit_site.score(destinations=["pacs"])
    audit_site.deliver(outcome=DeliveryState.SENT)
    assert enforce(audit_site, results_days=0).reports == 1


def test_results_that_are_still_needed_stay(audit_site: Any) -> None:
    """Pending, to be verified, dead, arrived at one of two only, or with no destination at all."""
    audit_site.receive(1)
    audit_site.score()  # no destination: the data folder is where it stays
    audit_site.receive(2)
    audit_site.score(destinations=["pacs"])
    audit_site.deliver(outcome=DeliveryState.SENT, verify_at=audit_site.now + timedelta(days=10**4))
    audit_site.receive(3)
    audit_site.score(destinations=["pacs"])
    audit_site.deliver(outcome=DeliveryState.DEAD)
    audit_site.receive(4)
    audit_site.score(destinations=["pacs", "archive"])
    with audit_site.database.begin() as session:
        last = deliveries.list_deliveries(session, state=DeliveryState.PENDING, limit=1)[0]
        deliveries.mark_sent(
            session,
            last.id,
            status=0,
            sop_class_uid="1.2",
            sop_instance_uid="1.2.3",
            verify_at=None,
            now=audit_site.now,
        )
    audit_site.later(days=1000)
    assert enforce(audit_site, results_days=0).reports == 0
    assert report_files(audit_site) == 4


# An operator's word


def test_an_operator_may_purge_what_failed_or_is_held(audit_site: Any) -> None:
    failed = audit_site.receive(1)
    audit_site.fail()
    held = audit_site.receive(2, state=JobState.HELD)
    audit_site.later(days=10)
    young = audit_site.receive(3, state=JobState.HELD)
    audit_site.later(days=1)
    paths = [audit_site.pixels(image) for image in (failed, held)]

    def purge(*states: JobState, days: float) -> int:
        return retention.purge(
            audit_site.database, audit_site.spool, states=states, older_than=timedelta(days=days), now=audit_site.now
        )

    assert purge(JobState.FAILED, days=12) == 0
    assert purge(JobState.FAILED, days=11) == 1
    assert purge(JobState.FAILED, JobState.HELD, days=5) == 1
    assert has_pixels(audit_site) == [young.image_id]
    assert not any(path.exists() for path in paths)
    with audit_site.database.read() as session:
        rows = {row.id: (row.state, row.reason) for row in session.scalars(select(Job))}
    assert rows[failed.job_id] == rows[held.job_id] == (JobState.NOT_SCORED, "purged")
    assert rows[young.job_id] == (JobState.HELD, "view_position_frontal")
    assert [image for image, _, _ in events(audit_site, "job_discarded")] == [1, 2]
    assert [facts for _, _, facts in events(audit_site, "pixels_removed")] == ['{"why":"purged"}'] * 2


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.SCORING, JobState.REPORTED])
def test_nothing_else_can_be_purged(audit_site: Any, state: JobState) -> None:
    with pytest.raises(ValueError, match="Only failed and held"):
        retention.purge(
            audit_site.database, audit_site.spool, states=[state], older_than=timedelta(0), now=audit_site.now
        )


def test_what_was_purged_can_be_neither_released_nor_requeued(audit_site: Any) -> None:
    held = audit_site.receive(1, state=JobState.HELD)
    retention.purge(
        audit_site.database, audit_site.spool, states=[JobState.HELD], older_than=timedelta(0), now=audit_site.now
    )
    for order in (operator_actions.release, operator_actions.requeue):
        with pytest.raises(StorageError), audit_site.database.begin() as session:
            order(session, held.job_id, audit_site.now)


# The sweep


def test_the_sweep_knows_images_and_reports_and_leaves_an_event(audit_site: Any) -> None:
    audit_site.receive(1)
    audit_site.score()
    known = sorted(audit_site.spool.names())
    orphan = audit_site.spool.path(audit_site.spool.write(b"orphan", suffix=".dcm"))
    for name in audit_site.spool.names():
        os.utime(audit_site.spool.path(name), (1, 1))

    def sweep() -> SweepResult:
        return retention.sweep(audit_site.database, audit_site.spool, older_than=audit_site.now, now=audit_site.now)

    assert sweep() == SweepResult(quarantined=1, leftovers=0)
    assert sorted(audit_site.spool.names()) == known
    assert [path.name for path in audit_site.spool.quarantine_dir.iterdir()] == [orphan.name]
    assert events(audit_site, "object_quarantined") == [(None, None, '{"objects":1}')]
    assert sweep() == SweepResult(quarantined=0, leftovers=0)
    assert len(events(audit_site, "object_quarantined")) == 1


@pytest.mark.parametrize("pixels_days", [0.0, 30.0])
@pytest.mark.parametrize("way", ["swept", "copied"])
def test_age_in_quarantine_counts_from_the_quarantining(audit_site: Any, pixels_days: float, way: str) -> None:
    """A restored file keeps the day on which it was received, months ago."""
    spool = audit_site.spool
    orphan = spool.path(spool.write(b"orphan", suffix=".dcm"))
    os.utime(orphan, (1, 1))
    if way == "swept":
        retention.sweep(audit_site.database, spool, older_than=audit_site.now, now=audit_site.now)
    else:  # by hand
        orphan.rename(spool.quarantine_dir / orphan.name)
    (file,) = spool.quarantine_dir.iterdir()
    moved_at = datetime.fromtimestamp(file.stat().st_ctime, tz=UTC)

    audit_site.now = moved_at + timedelta(days=29.9)
    assert enforce(audit_site, pixels_days=pixels_days) == RemovedFiles()
    assert file.exists()
    audit_site.later(days=0.2)
    assert enforce(audit_site, pixels_days=pixels_days) == RemovedFiles(quarantined=1)
    assert not file.exists()
    assert events(audit_site, "quarantine_emptied") == [(None, None, '{"objects":1}')]
    assert enforce(audit_site, pixels_days=pixels_days) == RemovedFiles()
    assert len(events(audit_site, "quarantine_emptied")) == 1


def test_the_sweep_dates_what_it_quarantines(audit_site: Any) -> None:
    """So that a later ``cp --archive`` of the quarantine keeps the day."""
    spool = audit_site.spool
    orphan = spool.path(spool.write(b"orphan", suffix=".dcm"))
    os.utime(orphan, (1, 1))
    retention.sweep(audit_site.database, spool, older_than=audit_site.now, now=audit_site.now)
    (file,) = spool.quarantine_dir.iterdir()
    assert abs(file.stat().st_mtime - file.stat().st_ctime) < 60
