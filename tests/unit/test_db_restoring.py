"""A lost file comes back with a resend; what was removed on purpose does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from config.settings import RetentionSettings
from cxr.domain import JobState
from cxr.errors import MissingObject, StorageError
from db import images, jobs
from db.images.lost_files import restore_file
from db.jobs import operator_actions
from db.schema.tables import Event, Image, Job
from db.upkeep import integrity, retention
from db.upkeep.replay import differing_rows


def lose(site: Any) -> None:
    for name in list(site.spool.names()):
        site.spool.path(name).unlink()


def forget_names(site: Any) -> None:
    """Files and their names are gone: what an older version, or a hand, may have left."""
    lose(site)
    with site.database.begin() as session:
        session.execute(update(Image).values(spool_name=None, pixels_removed_at=site.now))


def claim(site: Any) -> list[int]:
    with site.database.begin() as session:
        claimed = jobs.claim(session, worker_id="w", limit=10, now=site.now, lease_s=60)
    return [job.id for job in claimed]


def fail_without_file(site: Any) -> None:
    """What the worker does with a claimed image whose file is not there."""
    for job_id in claim(site):
        with site.database.begin() as session:
            jobs.fail(
                session,
                job_id,
                worker_id="w",
                code=MissingObject.code,
                retryable=False,
                max_attempts=3,
                retry_s=30,
                now=site.now,
            )


def resend(site: Any) -> None:
    """Send the only image again, and keep nothing of it."""
    with site.database.begin() as session:
        image = session.scalars(select(Image)).one()
        images.receive_again(
            session,
            image.sop_instance_uid,
            image.dataset_digest,
            peer_ae_title="PACS",
            now=site.now,
            is_lost=site.spool.is_lost,
        )


def kinds(site: Any) -> list[str]:
    with site.database.read() as session:
        return list(session.scalars(select(Event.kind).order_by(Event.id)))[1:]


def job(site: Any) -> tuple[JobState, int, str | None]:
    with site.database.read() as session:
        row = session.scalars(select(Job)).one()
        return row.state, row.attempts, row.error_code


def is_sound(site: Any) -> bool:
    """Rows and events agree, every file that a row names is there, and no other."""
    with site.database.read() as session:
        assert differing_rows(session) == []
        named = set(session.scalars(select(Image.spool_name).where(Image.spool_name.is_not(None))))
    return integrity.check(site.database, site.spool).ok and set(site.spool.names()) == named


# In which state a file comes back


@pytest.mark.parametrize("gone", [lose, forget_names])
@pytest.mark.parametrize("state", [JobState.HELD, JobState.QUEUED])
def test_what_waits_gets_its_file_back(audit_site: Any, state: JobState, gone: Callable[[Any], None]) -> None:
    first = audit_site.receive(1, state=state)
    gone(audit_site)
    again = audit_site.receive(1, state=state)
    assert (again.outcome, again.is_restored) == ("resent", True)
    assert audit_site.pixels(first).exists()
    assert job(audit_site) == (state, 0, None)
    assert kinds(audit_site) == ["received", "resent", "pixels_restored"]
    with audit_site.database.read() as session:
        assert session.get_one(Image, first.image_id).pixels_removed_at is None
    assert is_sound(audit_site)


@pytest.mark.parametrize("gone", [lose, forget_names])
def test_what_is_being_scored_gets_its_file_back(audit_site: Any, gone: Callable[[Any], None]) -> None:
    audit_site.receive(1)
    claim(audit_site)
    gone(audit_site)
    assert audit_site.receive(1).is_restored
    assert job(audit_site)[0] is JobState.SCORING
    assert is_sound(audit_site)


@pytest.mark.parametrize("gone", [lose, forget_names])
def test_a_job_that_failed_for_want_of_its_file_is_queued_with_all_attempts(
    audit_site: Any, gone: Callable[[Any], None]
) -> None:
    received = audit_site.receive(1)
    gone(audit_site)
    fail_without_file(audit_site)
    assert job(audit_site) == (JobState.FAILED, 1, "missing_object")
    assert audit_site.receive(1).is_restored
    assert job(audit_site) == (JobState.QUEUED, 0, None)
    assert kinds(audit_site)[-3:] == ["resent", "pixels_restored", "job_requeued"]
    assert is_sound(audit_site)
    assert claim(audit_site) == [received.job_id]


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_job_that_failed_for_want_of_its_file_is_queued_when_the_file_is_back(audit_site: Any, is_kept: bool) -> None:
    received = audit_site.receive(1)
    fail_without_file(audit_site)  # the disk was not mounted, or a resend was faster than the worker
    if is_kept:
        assert not audit_site.receive(1).is_restored
    else:
        resend(audit_site)
    assert job(audit_site) == (JobState.QUEUED, 0, None)
    assert kinds(audit_site)[-2:] == ["resent", "job_requeued"]
    assert is_sound(audit_site)
    assert claim(audit_site) == [received.job_id]


def test_a_resend_that_is_not_kept_changes_nothing(audit_site: Any) -> None:
    audit_site.receive(1)
    lose(audit_site)
    fail_without_file(audit_site)
    resend(audit_site)
    assert job(audit_site) == (JobState.FAILED, 1, "missing_object")
    assert kinds(audit_site)[-1] == "resent"


@pytest.mark.parametrize("gone", [lose, forget_names])
def test_a_job_that_failed_for_another_reason_stays_failed_and_can_be_requeued(
    audit_site: Any, gone: Callable[[Any], None]
) -> None:
    received = audit_site.receive(1)
    audit_site.fail()
    gone(audit_site)
    assert audit_site.receive(1).is_restored
    assert job(audit_site) == (JobState.FAILED, 1, "damaged_pixels")
    assert is_sound(audit_site)
    with audit_site.database.begin() as session:
        operator_actions.requeue(session, received.job_id, audit_site.now)
    assert claim(audit_site) == [received.job_id]


def test_a_reported_image_that_is_still_kept_gets_its_file_back(audit_site: Any) -> None:
    received = audit_site.receive(1)
    audit_site.score()
    audit_site.pixels(received).unlink()
    assert audit_site.receive(1).is_restored
    assert audit_site.pixels(received).exists()
    assert job(audit_site)[0] is JobState.REPORTED
    assert integrity.check(audit_site.database, audit_site.spool).ok


# In which it does not


def test_what_retention_removed_stays_removed(audit_site: Any) -> None:
    received = audit_site.receive(1)
    audit_site.score()
    audit_site.later(days=31)
    keep = RetentionSettings(pixels_days=30, results_days=365, low_space_mib=0)
    assert retention.enforce(audit_site.database, audit_site.spool, keep, now=audit_site.now).pixels == 1
    assert not audit_site.receive(1).is_restored
    assert audit_site.pixels(received) is None
    assert not any(name.startswith("objects/") for name in audit_site.spool.names())


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.HELD])
def test_what_an_operator_purged_stays_purged(audit_site: Any, state: JobState) -> None:
    initial = JobState.HELD if state is JobState.HELD else JobState.QUEUED
    received = audit_site.receive(1, state=initial)
    audit_site.fail()
    retention.purge(audit_site.database, audit_site.spool, states=[state], older_than=timedelta(0), now=audit_site.now)
    assert not audit_site.receive(1, state=initial).is_restored
    assert audit_site.pixels(received) is None
    assert job(audit_site)[0] is JobState.NOT_SCORED
    assert is_sound(audit_site)


def test_what_was_purged_after_its_file_was_lost_stays_purged(audit_site: Any) -> None:
    audit_site.receive(1)
    lose(audit_site)
    fail_without_file(audit_site)
    retention.purge(
        audit_site.database, audit_site.spool, states=[JobState.FAILED], older_than=timedelta(0), now=audit_site.now
    )
    assert not audit_site.receive(1).is_restored
    assert job(audit_site) == (JobState.NOT_SCORED, 1, "missing_object")
    assert is_sound(audit_site)


def test_an_image_that_is_not_kept_needs_no_file(audit_site: Any) -> None:
    audit_site.receive(1, state=JobState.NOT_SCORED)
    assert not audit_site.receive(1, state=JobState.NOT_SCORED).is_restored
    assert kinds(audit_site) == ["received", "resent"]


def test_a_file_that_is_there_stays(audit_site: Any) -> None:
    received = audit_site.receive(1)
    path = audit_site.pixels(received)
    assert not audit_site.receive(1).is_restored
    assert audit_site.pixels(received) == path
    assert is_sound(audit_site)


def test_only_the_latest_object_of_an_instance_gets_its_file(audit_site: Any) -> None:
    first = audit_site.receive(1)
    second = audit_site.receive(1, content=b"corrected")
    lose(audit_site)
    assert audit_site.receive(1, content=b"corrected").is_restored
    assert audit_site.pixels(second).exists()
    assert not audit_site.pixels(first).exists()


# Together, and half-way


def test_of_eight_at_once_one_restores(audit_site: Any) -> None:
    received = audit_site.receive(1)
    lose(audit_site)
    came: list[bool] = []
    together = threading.Barrier(8)

    def send() -> None:
        together.wait()
        came.append(audit_site.receive(1).is_restored)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(came) == [False] * 7 + [True]
    assert audit_site.pixels(received).exists()
    assert kinds(audit_site).count("pixels_restored") == 1
    assert is_sound(audit_site)


def test_row_job_and_events_change_together_or_not_at_all(audit_site: Any) -> None:
    received = audit_site.receive(1)
    lose(audit_site)
    fail_without_file(audit_site)
    before = kinds(audit_site)
    with suppress(InterruptedError), audit_site.database.begin() as session:
        row = session.get_one(Image, received.image_id)
        known = images.find_latest(session, row.sop_instance_uid)
        assert known is not None
        name = f"objects/aa/aa{'0' * 30}.dcm"
        assert restore_file(session, known, name, now=audit_site.now, is_lost=audit_site.spool.is_lost)
        raise InterruptedError
    assert kinds(audit_site) == before
    assert job(audit_site)[0] is JobState.FAILED
    assert not audit_site.pixels(received).exists()


def test_release_says_what_is_true(audit_site: Any) -> None:
    held = audit_site.receive(1, state=JobState.HELD)
    forget_names(audit_site)
    with pytest.raises(StorageError, match="send the image again"), audit_site.database.begin() as session:
        operator_actions.release(session, held.job_id, audit_site.now)
    audit_site.receive(1, state=JobState.HELD)
    with audit_site.database.begin() as session:
        operator_actions.release(session, held.job_id, audit_site.now)
    assert claim(audit_site) == [held.job_id]


# What counts as lost


def test_nothing_is_lost_while_the_disk_is_not_there(audit_site: Any) -> None:
    received = audit_site.receive(1)
    path = audit_site.pixels(received)
    name = f"objects/{path.parent.name}/{path.name}"
    assert not audit_site.spool.is_lost(name)
    path.unlink()
    assert audit_site.spool.is_lost(name)
    path.parent.rmdir()
    assert not audit_site.spool.is_lost(name)
