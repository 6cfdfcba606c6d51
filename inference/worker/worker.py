"""The worker: claim images, prepare and score them, write a report for each.

The methods follow the order in which a batch is processed. While a batch is scored, the next batch is decoded; while
the reports of a batch are written, which occupies one core, the batch after the next is decoded.
If the worker is killed at any point, the leases expire and another attempt comes to the same result: every effect
is idempotent, and ``db.jobs.finish`` refuses a worker that has lost its lease.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from config.logs import get_logger
from cxr.domain import ScoredImage
from cxr.errors import DatabaseUnavailable, LeaseLost, SpoolFull
from db import jobs
from db.schema.records import ClaimedJob
from inference.delivery.routes import results_for
from inference.worker import capacity
from inference.worker.claimed_jobs import ClaimedJobs
from inference.worker.decode_pool import DecodePool
from inference.worker.image_warnings import InputGate
from inference.worker.loading import load_until_stopped
from inference.worker.metrics import ResultMetrics, StageTimes
from inference.worker.scored_image import scored_image
from inference.worker.view_check import SCORED, check_orientation

if TYPE_CHECKING:
    from concurrent.futures import Future

    from config.settings import DestinationSettings, WorkerSettings
    from cxr.package import ModelPackage
    from cxr.package.lung_mask import GraphInput
    from db.disk import Spool
    from db.engine import Database
    from inference.model.model import Model, ModelOutput
    from inference.registry import Registry
    from inference.worker.reporter import Reporter
    from inference.worker.shadow import Shadow
    from inference.worker.view_check import Verdict, ViewCheck

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PendingImage:
    """One claimed job whose image is prepared in a child process."""

    job: ClaimedJob
    pictures: Future[tuple[NDArray[np.float32], ...]]  # for the model, and for the view model if there is one

    def pixels(self) -> NDArray[np.float32]:
        """Wait for the picture for the model, shape (size, size, 1) in [0, 1]; raise the error of its preparation."""
        return self.pictures.result()[0]


class Worker:
    """Scores images until it is stopped.

    Parameters
    ----------
    database, spool, registry
        Storage of jobs, files and model packages.
    settings
        The ``worker`` table of the settings.
    destinations
        All destinations; those of one report depend on the image's sender.
    reporter
        Builds the report of a scored image and writes it to the spool.
    load_model
        Loads a package onto the device; called at start and after each promotion.
    worker_id
        Unique among all workers of this database.
    clock
        Returns the current time, aware.
    reported
        Called after reports were written, to start their delivery at once.
    shadow
        Scores reported images again; None: no shadow.
    load_view
        Loads the view check; called once for each package in service; may return None: no check of the view by pixels.
    stages
        Time by stage; None: not recorded elsewhere.
    results
        Scores and waiting times; None: not recorded elsewhere.
    """

    def __init__(
        self,
        *,
        database: Database,
        spool: Spool,
        registry: Registry,
        settings: WorkerSettings,
        destinations: Sequence[DestinationSettings],
        reporter: Reporter,
        load_model: Callable[[ModelPackage], Model],
        worker_id: str,
        clock: Callable[[], datetime],
        reported: Callable[[], None] = lambda: None,
        shadow: Shadow | None = None,
        load_view: Callable[[], ViewCheck | None] = lambda: None,
        stages: StageTimes | None = None,
        results: ResultMetrics | None = None,
    ) -> None:
        self._database = database
        self._spool = spool
        self._registry = registry
        self._settings = settings
        self._destinations = tuple(destinations)
        self._reporter = reporter
        self._load_model = load_model
        self._worker_id = worker_id
        self._clock = clock
        self._reported = reported
        self._shadow = shadow
        self._load_view = load_view
        self._view: ViewCheck | None = None
        self._stages = stages or StageTimes()
        self._results = results or ResultMetrics()
        self._claims = ClaimedJobs(database, spool, settings, worker_id=worker_id, clock=clock)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; return unfinished jobs to the queue.

        Raises
        ------
        PackageError
            If the package in service can't be served.
        DatabaseUnavailable
            If the unfinished jobs can't be returned at the end.
        StoppedWhileLoading
            If ``stop`` is set while models are loaded; no job is claimed then.
        """
        ended = threading.Event()
        heartbeat = threading.Thread(
            target=self._claims.renew_leases_until, args=(ended,), name="heartbeat", daemon=True
        )
        heartbeat.start()
        try:
            while not stop.is_set():
                try:
                    self._serve_one_package(stop)
                except (DatabaseUnavailable, SpoolFull) as error:
                    log.warning("storage_refused", code=error.code)
                    self._claims.wait_for_storage(stop)
        finally:
            # First: a heartbeat that outlives this method would renew the leases for ever.
            ended.set()
            heartbeat.join()
            if self._shadow is not None:
                self._shadow.close()
            self._claims.close()

    def _serve_one_package(self, stop: threading.Event) -> None:
        """Score with the active package until another one is promoted."""
        package, model, gate, self._view = load_until_stopped(self._load, stop)
        log.info("model_loaded", model=package.manifest.name, fingerprint=package.fingerprint, device=model.device)
        cores = len(os.sched_getaffinity(0))
        limit = capacity.batch_size(self._settings.batch_size, device=model.device, cores=cores)
        with DecodePool(
            package.manifest.recipe,
            *(() if self._view is None else (self._view.recipe,)),
            processes=capacity.decode_processes(self._settings.decode_processes, cores=cores),
            timeout_s=self._settings.decode_timeout_s,
            max_megapixels=self._settings.max_megapixels,
        ) as preparer:
            ahead: deque[list[PendingImage]] = deque()

            def look_ahead(batches: int) -> None:
                while len(ahead) < batches and (claimed := self._claim(preparer, limit)):
                    ahead.append(claimed)

            while not stop.is_set():
                if self._shadow is not None:
                    self._shadow.follow(package.fingerprint)
                is_current = self._registry.active_fingerprint() == package.fingerprint
                batch = ahead.popleft() if ahead else []
                if is_current:
                    look_ahead(1)
                if batch:
                    reported = self._score(batch, gate, model, partial(look_ahead, 2 if is_current else 0))
                    if self._shadow is not None:
                        with self._stages.timing("shadow", len(reported)):
                            self._shadow.score(reported, package.manifest.recipe.digest, stop)
                elif not is_current:
                    return
                elif not ahead:
                    with self._stages.timing("idle"):
                        self._claims.wait_for_work(stop, partial(self._registry.changed_since, package.fingerprint))

    def _load(self) -> tuple[ModelPackage, Model, InputGate, ViewCheck | None]:
        package = self._registry.active()
        return package, self._load_model(package), InputGate.of(package), self._load_view()

    def _claim(self, preparer: DecodePool, limit: int) -> list[PendingImage]:
        """Claim a batch and submit its files to the decoding processes."""
        with self._stages.timing("claim"):
            claimed = self._claims.claim(limit)
        return [PendingImage(job, preparer.submit(self._spool.path(job.spool_name))) for job in claimed]

    def _score(
        self, batch: Sequence[PendingImage], gate: InputGate, model: Model, meanwhile: Callable[[], None] = lambda: None
    ) -> list[tuple[ClaimedJob, NDArray[np.float32]]]:
        """Score the images that could be prepared and return the reported ones; other images fail one by one."""
        ready: list[tuple[ClaimedJob, GraphInput]] = []
        reported: set[int] = set()
        flags: dict[int, tuple[str, ...]] = {}
        for prepared in batch:
            with self._claims.isolate_failures([prepared.job]):
                verdict = self._judge_view(prepared)
                if verdict.state is not None:
                    self._claims.set_aside(prepared.job, verdict)
                    continue
                flags[prepared.job.id] = verdict.warnings
                with self._stages.timing("decode", 1):
                    ready.append((prepared.job, model.mask_lungs(prepared.pixels())))
        output = self._outputs(ready, model) if ready else None
        meanwhile()
        if output is not None:
            reported = self._report_all(ready, output, gate, model, flags)
        self._claims.stop_renewing(prepared.job.id for prepared in batch)
        self._reported()
        return [(prepared.job, prepared.pixels()) for prepared in batch if prepared.job.id in reported]

    def _outputs(self, ready: Sequence[tuple[ClaimedJob, GraphInput]], model: Model) -> ModelOutput | None:
        """Run the model; None: it failed, and the failure is recorded for these jobs."""
        output: ModelOutput | None = None
        with self._claims.isolate_failures([job for job, _ in ready]), self._stages.timing("score", len(ready)):
            output = model.score(np.stack([seen.pixels for _, seen in ready]))
        return output  # noqa: RET504 (None after a failure, which the context manager suppresses)

    def _report_all(
        self,
        ready: Sequence[tuple[ClaimedJob, GraphInput]],
        output: ModelOutput,
        gate: InputGate,
        model: Model,
        flags: Mapping[int, tuple[str, ...]],
    ) -> set[int]:
        """Report each image and return the ids of the reported jobs."""
        reported: set[int] = set()
        for row, (job, seen) in enumerate(ready):
            with self._claims.isolate_failures([job]):
                package, shape = gate.package, self._reporter.shape_of(job)
                geometry = self._reporter.geometry_of(job)
                warnings = gate.warnings(seen, output, row, shape=shape, geometry=geometry) + flags[job.id]
                scored = scored_image(output.probabilities[row], package, model.device, self._clock(), warnings)
                evidence = None if output.evidence is None else output.evidence[row]
                if evidence is None and self._reporter.saliency:
                    evidence = model.grad_cam(seen.pixels)
                self._report(job, scored, package, seen.pixels, evidence)
                reported.add(job.id)
        return reported

    def _judge_view(self, prepared: PendingImage) -> Verdict:
        """Check one image with the view model, if there is one, and its orientation."""
        job = prepared.job
        with self._stages.timing("decode"):
            picture = prepared.pictures.result()[-1]
        geometry = self._reporter.geometry_of(job)
        if self._view is None:
            return SCORED if job.is_released else check_orientation(picture, geometry)
        with self._stages.timing("view", 1):
            return self._view.verdict(picture, view=job.view, is_released=job.is_released, geometry=geometry)

    def _report(
        self,
        job: ClaimedJob,
        scored: ScoredImage,
        package: ModelPackage,
        pixels: NDArray[np.float32],
        evidence: NDArray[np.float32] | None,
    ) -> None:
        """Write the report to the spool, then the result to the database in one transaction."""
        with self._stages.timing("report", 1):
            reports = self._reporter.write(job, scored, package.manifest, pixels, evidence)
        destinations = results_for(
            job.peer_ae_title,
            self._destinations,
            status=package.manifest.status,
            deliver_untrained=self._reporter.deliver_untrained,
        )
        self._claims.stop_renewing([job.id])
        try:
            with self._stages.timing("commit", 1), self._database.begin() as session:
                unneeded = jobs.finish(
                    session,
                    job.id,
                    worker_id=self._worker_id,
                    scored=scored,
                    reports=reports,
                    destinations=destinations,
                    now=self._clock(),
                )
        except LeaseLost:
            for report in reports:
                self._spool.remove(report.spool_name)
            raise
        for spool_name in unneeded:  # an earlier attempt wrote the same report, whose bytes are sent
            self._spool.remove(spool_name)
        self._results.count_report(scored, wait_s=(self._clock() - job.received_at).total_seconds())
        log.info("reported", job=job.id, image=job.image_id, attempt=job.attempt)
