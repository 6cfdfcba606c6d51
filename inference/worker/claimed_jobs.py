"""The jobs claimed by one worker: leases, failures, images set aside.

``db.jobs`` defines the legal transitions of a job; this module chooses the transition when an image fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING

from config.logs import get_logger
from cxr.errors import CxrError, DatabaseUnavailable, LeaseLost, MissingObject, SpoolFull
from db import jobs
from db.schema.records import ClaimedJob
from db.sqlite.changes import ChangeWatch
from db.sqlite.write_notice import WriteNotice

if TYPE_CHECKING:
    from config.settings import WorkerSettings
    from db.disk import Spool
    from db.engine import Database
    from inference.worker.view_check import Verdict


log = get_logger(__name__)

STORAGE_RETRY_S = 5.0
LONGEST_IDLE_S = 3.0
LONGEST_STOP_S = 0.5  # until an idle worker checks for a stop


class ClaimedJobs:
    """The jobs claimed by one worker; a second thread renews their leases.

    Parameters
    ----------
    database, spool
        Storage of the jobs and of their files.
    settings
        The ``worker`` table of the settings: leases and attempts.
    worker_id
        Unique among all workers of this database.
    clock
        Returns the current time, aware.
    """

    def __init__(
        self,
        database: Database,
        spool: Spool,
        settings: WorkerSettings,
        *,
        worker_id: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._spool = spool
        self._settings = settings
        self._worker_id = worker_id
        self._clock = clock
        self._changes = ChangeWatch(database.path)
        self._writes: WriteNotice | None = None
        self.in_flight = InFlight()

    def claim(self, limit: int) -> list[ClaimedJob]:
        """Claim up to ``limit`` due jobs; read only after a commit, and write only if a job is due."""
        if not self._changes.is_read_due():
            return []
        with self._database.read() as session:
            if not jobs.is_any_due(session, now=self._clock()):
                return []
        self._changes.force_read()
        with self._database.begin() as session:
            claimed = jobs.claim(
                session,
                worker_id=self._worker_id,
                limit=limit,
                now=self._clock(),
                lease_s=self._settings.lease_s,
            )
        self.in_flight.add(job.id for job in claimed)
        return claimed

    def wait_for_work(self, stop: threading.Event, is_superseded: Callable[[], bool]) -> None:
        """Wait for a commit, another package in service or the worker's stop, at most `LONGEST_IDLE_S`.

        While no process writes the database's files, wait for a notice of the kernel; else check every ``poll_s``.
        """
        poll_s, end = self._settings.poll_s, time.monotonic() + LONGEST_IDLE_S
        if self._writes is None:
            self._writes = WriteNotice(self._database.path)
        for _ in range(max(1, int(LONGEST_IDLE_S / poll_s))):
            # In steps: setting ``stop`` does not end the wait for the kernel's notice.
            while self._writes.is_quiet and not self._writes.wait(LONGEST_STOP_S):
                if stop.is_set() or is_superseded() or time.monotonic() > end:
                    return
            if stop.wait(poll_s) or self._changes.has_new_commit() or is_superseded():
                return

    def stop_renewing(self, ids: Iterable[int]) -> None:
        """Stop renewing the leases of these jobs.

        Call it before the transaction that ends a job; the concurrent heartbeat would otherwise report a job that
        has just ended as a lost lease.
        """
        self.in_flight.discard(ids)

    def give_back(self) -> None:
        """Return all claimed jobs to the queue without counting an attempt.

        Raises
        ------
        DatabaseUnavailable
            If the database can't be written.
        """
        with self._database.begin() as session:
            jobs.give_back(session, worker_id=self._worker_id, now=self._clock())
        self.in_flight.clear()

    def close(self) -> None:
        """Stop renewing all leases and return all jobs to the queue; if that fails, the leases expire.

        Raises
        ------
        DatabaseUnavailable
            If the database can't be written.
        """
        self.in_flight.clear()
        self._changes.close()
        if self._writes is not None:
            self._writes.close()
            self._writes = None
        self.give_back()

    def wait_for_storage(self, stop: threading.Event) -> None:
        """Wait until the database can be written again, then return the claimed jobs to the queue."""
        while not stop.wait(STORAGE_RETRY_S):
            with suppress(DatabaseUnavailable, SpoolFull):
                self.give_back()
                return

    def set_aside(self, job: ClaimedJob, verdict: Verdict) -> None:
        """Set an image to held or not scored, because of its pixels."""
        if verdict.state is None:
            return
        self.stop_renewing([job.id])
        with self._database.begin() as session:
            jobs.set_aside(
                session,
                job.id,
                worker_id=self._worker_id,
                to=verdict.state,
                reason=verdict.reason,
                facts=verdict.facts,
                now=self._clock(),
            )
        log.info("set_aside", job=job.id, image=job.image_id, state=verdict.state.value, reason=verdict.reason)

    @contextmanager
    def isolate_failures(self, affected: Sequence[ClaimedJob]) -> Iterator[None]:
        """Record an exception of the block as a failure of these jobs, and suppress it."""
        try:
            yield
        except LeaseLost:
            self.stop_renewing(job.id for job in affected)
            log.warning("lease_lost", jobs=[job.id for job in affected])
        except CxrError as error:
            self._fail(
                affected, code=error.code, retryable=error.retryable, is_disk_fault=self._is_disk_fault(error, affected)
            )
        except Exception:  # a loop: a bug must not end the service
            log.exception("unexpected", jobs=[job.id for job in affected])
            self._fail(affected, code=CxrError.code, retryable=True)

    def _is_disk_fault(self, error: CxrError, affected: Sequence[ClaimedJob]) -> bool:
        """Return whether the spool's disk fails (full or not mounted), not these images."""
        if isinstance(error, MissingObject):
            return not any(self._spool.is_lost(job.spool_name) for job in affected)
        return isinstance(error, SpoolFull)

    def _fail(self, affected: Sequence[ClaimedJob], *, code: str, retryable: bool, is_disk_fault: bool = False) -> None:
        self.stop_renewing(job.id for job in affected)
        for job in affected:
            # A failing disk is not the image's fault: retry as long as it lasts.
            attempts = job.attempt + 1 if is_disk_fault else self._settings.max_attempts
            try:
                with self._database.begin() as session:
                    state = jobs.fail(
                        session,
                        job.id,
                        worker_id=self._worker_id,
                        code=code,
                        retryable=retryable or is_disk_fault,
                        max_attempts=attempts,
                        retry_s=self._settings.retry_s,
                        now=self._clock(),
                    )
            except LeaseLost:  # another worker has claimed it
                log.warning("lease_lost", jobs=[job.id])
                continue
            log.warning("attempt_failed", job=job.id, image=job.image_id, code=code, state=state.value)

    def renew_leases_until(self, ended: threading.Event) -> None:
        """Renew the leases three times per lease duration, until ``ended`` is set."""
        while not ended.wait(self._settings.lease_s / 3):
            held = self.in_flight.snapshot()
            if not held:
                continue
            try:
                with self._database.begin() as session:
                    renewed = jobs.renew(
                        session, held, worker_id=self._worker_id, now=self._clock(), lease_s=self._settings.lease_s
                    )
            except Exception:  # a loop: the next renewal comes before the lease expires
                log.exception("heartbeat_failed")
                continue
            if lost := held - renewed - (held - self.in_flight.snapshot()):
                log.warning("lease_lost", jobs=sorted(lost))


class InFlight:
    """Ids of the claimed jobs, shared by the worker's thread and the heartbeat."""

    def __init__(self) -> None:
        self._ids: set[int] = set()
        self._lock = threading.Lock()

    def add(self, ids: Iterable[int]) -> None:
        """Add claimed jobs."""
        with self._lock:
            self._ids.update(ids)

    def discard(self, ids: Iterable[int]) -> None:
        """Remove jobs that are finished, failed or returned to the queue."""
        with self._lock:
            self._ids.difference_update(ids)

    def clear(self) -> None:
        """Remove all jobs."""
        with self._lock:
            self._ids.clear()

    def snapshot(self) -> frozenset[int]:
        """Return the current ids."""
        with self._lock:
            return frozenset(self._ids)
