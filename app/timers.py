"""Timed tasks of the worker: delivery and retries, expired leases, retention, checks, backups.

APScheduler runs in every worker process, but only the process that holds the ``maintenance`` lease of the database runs
tasks: one per database. APScheduler triggers the tasks; the queues are tables of the database.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from app.clock_steps import ClockWatch, Daily, Every
from config.logs import get_logger
from cxr.errors import CxrError
from db import jobs
from db.images import resends
from db.sqlite.changes import ChangeWatch
from db.upkeep import clock_steps as planned
from db.upkeep import leases, retention
from db.upkeep.backup import backup
from db.upkeep.exported_heads import export_head, read_heads
from db.upkeep.integrity import check_and_record
from db.upkeep.snapshot import refresh_snapshot
from inference.delivery.commitment_reports import CommitmentReportSender
from inference.delivery.routes import results_for

if TYPE_CHECKING:
    from app.rebuild.timer import RebuildTimer
    from config.settings import Settings
    from cxr.domain import PackageStatus
    from db.disk import Spool
    from db.engine import Database
    from inference.delivery.sender import Sender

log = get_logger(__name__)

LEASE = "maintenance"
LEASE_TTL_S = 30.0
DELIVER_EVERY_S = 1.0
ORPHAN_AGE = timedelta(hours=1)
CHECK_CLOCK_S = 1.0
_RESENDS_AT_ONCE = 20
CLOCK_DOUBT_S = 3600.0
"""Seconds after a forward step of the clock in which nothing is removed because of its age."""


class Timers:
    """The timers of one worker process.

    Parameters
    ----------
    settings
        All settings.
    database, spool
        Storage that the tasks maintain.
    senders
        One per destination.
    holder
        Name of this process, unique among all processes of the database.
    clock
        Returns the current time, aware.
    lease_ttl_s
        Seconds after which a lease that is not renewed expires.
    rebuild
        Timer of model rebuilds; None: no rebuilds.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        spool: Spool,
        senders: Sequence[Sender],
        holder: str,
        clock: Callable[[], datetime],
        lease_ttl_s: float = LEASE_TTL_S,
        rebuild: RebuildTimer | None = None,
    ) -> None:
        self._rebuild = rebuild
        self._lease_ttl_s = lease_ttl_s
        self._settings = settings
        self._database = database
        self._spool = spool
        self._senders = {sender.name: sender for sender in senders}
        self._commitment_reports = CommitmentReportSender(settings, database=database, spool=spool)
        self._holder = holder
        self._clock = clock
        self._started_at = clock()
        self._is_holder = threading.Event()
        self._is_stopping = threading.Event()
        self._watch = ClockWatch(clock)
        self._clock_lock = threading.Lock()
        self._commits_for_resends = ChangeWatch(database.path)
        self._commits_for_commitments = ChangeWatch(database.path)
        self._has_plans_ahead = threading.Event()  # the clock was set back, since or before the start
        self._has_plans_ahead.set()
        self._jump, self._jumped_at = timedelta(0), float("-inf")  # forward step, and its time by time.monotonic()
        # A tick while the previous one still runs is skipped by design; APScheduler would warn of it.
        logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
        self._scheduler = BackgroundScheduler(
            # One thread each to send and to verify per destination: one that hangs does not delay the others.
            executors={"default": ThreadPoolExecutor(4), "delivery": ThreadPoolExecutor(2 * len(senders) + 1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def start(self) -> None:
        """Take the lease if it is free, and start all timers; a refused transaction is repeated at the next tick."""
        self._guarded(self._hold, "hold", always=True)()
        self._every(self._lease_ttl_s / 3, self._hold, name="hold", always=True)
        for name, sender in self._senders.items():
            self._every(DELIVER_EVERY_S, partial(self._deliver, sender), name=f"deliver:{name}")
            # A task of its own, since a slow Storage Commitment must not delay reports that wait to be sent.
            self._every(DELIVER_EVERY_S, partial(self._verify, sender), name=f"verify:{name}")
        self._every(DELIVER_EVERY_S, self._report_commitments, name="commitments")
        self._every(DELIVER_EVERY_S, self._deliver_resent_images, name="resends")
        self._every(60, self._release_expired, name="release_expired")
        self._every(self._settings.audit.snapshot_every_s, self._snapshot, name="snapshot")
        self._every(600, self._retain, name="retention")
        self._every(3600, self._check_integrity, name="integrity")
        self._every(3600, self._sweep, name="sweep")
        self._every(60, self._export_head, name="head")
        if self._rebuild is not None:
            self._every(60, self._rebuild.tick, name="rebuild")
        daily = Daily(self._settings.audit.backup_at, self._scheduler.timezone)
        self._scheduler.add_job(self._guarded(self._back_up, "backup", always=False), daily, id="backup")
        self._scheduler.start()
        threading.Thread(target=self._watch_clock, name="clock", daemon=True).start()

    def stop(self) -> None:
        """Stop the timers after the running tasks, and release the lease."""
        self._is_stopping.set()
        self._scheduler.shutdown(wait=True)
        if self._rebuild is not None:
            self._rebuild.stop()
        for sender in self._senders.values():
            sender.close()
        # After a stop, no later event would reveal a truncation.
        self._guarded(self._export_head, "head", always=False)()
        with suppress(CxrError), self._database.begin() as session:  # if the database refuses, the lease expires
            leases.release_hold(session, name=LEASE, holder=self._holder)

    @property
    def is_holder(self) -> bool:
        """Whether this process holds the maintenance lease."""
        return self._is_holder.is_set()

    @property
    def is_running(self) -> bool:
        """Whether the timers run."""
        return bool(self._scheduler.running)

    def run_now(self, name: str) -> None:
        """Run one task now."""
        self._scheduler.modify_job(name, next_run_time=self._clock())

    def wake_delivery(self) -> None:
        """Run delivery now instead of at the next tick, after a report was written."""
        for name in self._senders:
            try:
                self.run_now(f"deliver:{name}")
            except JobLookupError:  # stopping
                return

    def _every(self, seconds: float, task: Callable[[], object], *, name: str, always: bool = False) -> None:
        executor = "delivery" if name.startswith(("deliver:", "verify:")) else "default"
        self._scheduler.add_job(self._guarded(task, name, always=always), Every(seconds), id=name, executor=executor)

    def _guarded(self, task: Callable[[], object], name: str, *, always: bool) -> Callable[[], None]:
        def run() -> None:
            if not always and not self._is_holder.is_set():
                return
            self._check_clock()  # before a task uses it
            try:
                task()
            except CxrError as error:
                log.warning("timer_failed", timer=name, code=error.code)
            except Exception:  # the next tick tries again
                log.exception("timer_failed", timer=name)

        return run

    def _watch_clock(self) -> None:
        """Check the clock in a thread of its own, since the scheduler waits by the clock."""
        while not self._is_stopping.wait(CHECK_CLOCK_S):
            self._check_clock()

    def _check_clock(self) -> None:
        with self._clock_lock:
            step = self._watch.step()
            if step > timedelta(0):  # the scheduler runs due tasks by itself
                self._jump, self._jumped_at = step, time.monotonic()
            elif step < timedelta(0):
                self._has_plans_ahead.set()
                self._reschedule()
        if step:
            log.warning("clock_stepped", seconds=step.total_seconds())

    def _reschedule(self) -> None:
        """Reschedule all timers, which would otherwise wait for times that now lie far ahead."""
        for job in self._scheduler.get_jobs():
            with suppress(JobLookupError):  # stopping
                job.modify(next_run_time=job.trigger.get_next_fire_time(None, self._clock()))

    def _hold(self) -> None:
        is_held = False
        try:
            with self._database.begin() as session:
                is_held = leases.hold(
                    session, name=LEASE, holder=self._holder, ttl_s=self._lease_ttl_s, now=self._clock()
                )
        finally:  # also if the database refuses: a holder that can't renew has to stop
            if is_held != self._is_holder.is_set():
                log.info("maintenance", holds=is_held)
            if is_held:
                self._is_holder.set()
            else:
                self._is_holder.clear()

    def _deliver(self, sender: Sender) -> None:
        sender.send_due(self._clock())

    def _verify(self, sender: Sender) -> None:
        sender.verify_due(self._clock())

    def _deliver_resent_images(self) -> None:
        """Create deliveries of existing results for images that were sent again."""
        if not self._commits_for_resends.is_read_due():
            return
        while not self._is_stopping.is_set():
            with self._database.read() as session:  # mostly none: check before the write lock is taken
                if not resends.is_any_due(session):
                    return
            with self._database.begin() as session:
                resends.create_deliveries(session, self._destinations_of, limit=_RESENDS_AT_ONCE, now=self._clock())
            self.wake_delivery()

    def _destinations_of(self, peer_ae_title: str, senders: Collection[str], status: PackageStatus) -> tuple[str, ...]:
        return results_for(
            peer_ae_title,
            self._settings.destinations,
            senders=senders,
            status=status,
            deliver_untrained=self._settings.report.deliver_untrained,
        )

    def _report_commitments(self) -> None:
        if self._commits_for_commitments.is_read_due() and self._commitment_reports.report_due(self._clock()):
            self._commits_for_commitments.force_read()  # there may be more

    def _release_expired(self) -> None:
        if self._has_plans_ahead.is_set():
            self._bring_plans_forward()
        if time.monotonic() - self._jumped_at < self._settings.worker.lease_s:
            return  # running workers renew their leases first
        with self._database.begin() as session:
            released = jobs.release_expired(session, retry_s=self._settings.worker.retry_s, now=self._clock())
        if released:
            log.warning("leases_expired", count=released)

    def _bring_plans_forward(self) -> None:
        """Correct times that a step back of the clock has left too far in the future."""
        with self._database.begin() as session:
            corrected = planned.bring_future_times_forward(
                session,
                now=self._clock(),
                job_lease_s=self._settings.worker.lease_s,
                delivery_lease_s=self._settings.delivery.lease_s,
            )
        self._has_plans_ahead.clear()
        if corrected:
            log.warning("plans_brought_forward", count=corrected)

    def _snapshot(self) -> None:
        refresh_snapshot(self._database, self._settings.snapshot_path)

    def _retain(self) -> None:
        # A clock that has just jumped ahead may be wrong, and removal is final.
        is_clock_doubted = time.monotonic() - self._jumped_at < CLOCK_DOUBT_S
        now = self._clock() - (self._jump if is_clock_doubted else timedelta(0))
        removed = retention.enforce(self._database, self._spool, self._settings.retention, now=now)
        if removed.quarantined:
            log.warning("quarantine_emptied", count=removed.quarantined)

    def _check_integrity(self) -> None:
        heads = read_heads(self._settings.audit_heads_path)
        report = check_and_record(self._database, self._spool, heads=heads, now=self._clock())
        for fault in report.faults:
            log.error("integrity", code=fault.code)

    def _sweep(self) -> None:
        now = self._clock()
        retention.sweep(self._database, self._spool, older_than=min(self._started_at, now - ORPHAN_AGE), now=now)

    def _export_head(self) -> None:
        export_head(self._database, self._settings.audit_heads_path, now=self._clock())

    def _back_up(self) -> None:
        backup(self._database, self._settings.backup_dir, keep=self._settings.audit.backup_keep, now=self._clock())
