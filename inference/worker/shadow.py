"""Control of the shadow's process by the worker: three methods that never raise.

The shadow delays the worker by its own scoring time only: the reports of a batch are written before the shadow
scores it, and the next batch waits for at most ``shadow_timeout_s``. While the shadow's process loads the
model, the worker does not wait, and images are not scored by the shadow.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from config.logs import get_logger
from cxr.domain import ScoredImage
from cxr.errors import CxrError, StorageError
from db.jobs import shadow_scores
from db.sqlite.changes import ChangeWatch
from inference.worker.metrics import ShadowMetrics
from inference.worker.shadow_process import ShadowBatch, ShadowError, ShadowImage, ShadowLoaded, serve

if TYPE_CHECKING:
    from config.settings import WorkerSettings
    from db.engine import Database
    from db.schema.records import ClaimedJob

log = get_logger(__name__)

GIVE_UP_AFTER: Final = 3
"""Number of consecutive failures after which the shadow is switched off."""

LOAD_TIMEOUT_S: Final = 600.0
CRASHED: Final = ShadowError(code="shadow_crashed", retryable=True)
TIMED_OUT: Final = ShadowError(code="shadow_timed_out", retryable=True)

Pixels = NDArray[np.float32]


@dataclass(slots=True, eq=False)
class _Child:
    """The shadow's process; ``loaded`` is None while it loads the model."""

    process: SpawnProcess
    connection: Connection
    deadline: float
    loaded: ShadowLoaded | None = None
    talking: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "shadow"))

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.talking.shutdown(wait=False)

    def score(self, batch: ShadowBatch) -> Any:  # noqa: ANN401 (an unpickled object)
        self.connection.send(batch)
        return self.connection.recv()


class Shadow:
    """Scores reported images again, with the package that the audit database names as the shadow.

    Parameters
    ----------
    database
        Audit database: names the shadow and stores its scores.
    models_dir
        Folder of the registry.
    settings
        The ``worker`` table of the settings.
    path_of
        Returns the path of a spool name.
    shape_of
        Returns rows and columns of a job's image; None: unknown.
    clock
        Returns the current time, aware.
    metrics
        Counter of the shadow's images.
    """

    def __init__(
        self,
        *,
        database: Database,
        models_dir: Path,
        settings: WorkerSettings,
        path_of: Callable[[str], Path],
        shape_of: Callable[[ClaimedJob], tuple[int, int] | None],
        clock: Callable[[], datetime],
        metrics: ShadowMetrics,
    ) -> None:
        self._database = database
        self._models_dir = models_dir
        self._settings = settings
        self._path_of = path_of
        self._shape_of = shape_of
        self._clock = clock
        self._metrics = metrics
        self._changes = ChangeWatch(database.path)
        self._following: tuple[int, str] | None = None  # the change and the package in service
        self._fingerprint: str | None = None
        self._failures = 0
        self._child: _Child | None = None

    def follow(self, active: str) -> None:
        """Start, replace or stop the shadow as the audit database names it; call it between two batches.

        Parameters
        ----------
        active
            Fingerprint of the package in service, which can't be its own shadow.
        """
        try:
            self._follow_change(active)
            if self._child is None and self._fingerprint is not None:
                self._start(self._fingerprint)
            self._poll_loading()
        except StorageError as error:  # not a failure of the shadow
            log.warning("shadow_failed", fingerprint=self._fingerprint, code=error.code)
        except Exception as error:  # noqa: BLE001 (no failure of the shadow may stop the model in service)
            self._failed(_code_of(error))

    def score(self, reported: Sequence[tuple[ClaimedJob, Pixels]], recipe: str, stop: threading.Event) -> None:
        """Score images whose reports are written.

        Parameters
        ----------
        reported
            Their jobs, and the prepared pixels of the model in service.
        recipe
            Digest of the pixel recipe of these pixels.
        stop
            Event that aborts the wait.
        """
        if self._fingerprint is None or not reported:
            return
        child = self._child
        if child is None or child.loaded is None:
            self._metrics.count("missed", len(reported))
            return
        try:
            is_same = child.loaded.recipe == recipe
            batch = ShadowBatch(images=[self._image(job, pixels if is_same else None) for job, pixels in reported],
                          at=self._clock())  # fmt: skip
            answer = self._score_in_child(child, batch, stop)
            if isinstance(answer, ShadowError):
                self._metrics.count("failed", len(reported))
                self._failed(answer.code)
            elif answer is not None:
                self._store([job for job, _ in reported], answer)
        except Exception as error:  # noqa: BLE001 (as in follow)
            self._metrics.count("failed", len(reported))
            self._failed(_code_of(error))

    def close(self) -> None:
        """Stop the shadow's process."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _follow_change(self, active: str) -> None:
        is_known = self._following is not None and self._following[1] == active
        if is_known and not self._changes.is_read_due():
            return
        with self._database.read() as session:
            change, package = shadow_scores.latest_change(session), shadow_scores.current(session)
        if (change, active) == self._following:
            return
        self.close()
        self._following, self._failures = (change, active), 0
        self._fingerprint = None if package is None or package.fingerprint == active else package.fingerprint

    def _start(self, fingerprint: str) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks held by TensorFlow's threads
        worker_end, shadow_end = context.Pipe()
        arguments = (shadow_end, self._models_dir, fingerprint, self._settings)
        process = context.Process(target=serve, args=arguments, name="shadow", daemon=True)
        process.start()
        shadow_end.close()
        self._child = _Child(process, worker_end, time.monotonic() + LOAD_TIMEOUT_S)

    def _poll_loading(self) -> None:
        child = self._child
        if child is None or child.loaded is not None:
            return
        if not child.connection.poll():
            if time.monotonic() > child.deadline:
                self.close()
                self._failed(TIMED_OUT.code)
            return
        try:
            answer = child.connection.recv()
        except (EOFError, OSError):
            answer = CRASHED
        if isinstance(answer, ShadowError):
            self.close()
            self._failed(answer.code, is_final=not answer.retryable)
        else:
            child.loaded = answer
            log.info("shadow_loaded", fingerprint=self._fingerprint, device=answer.device)

    def _image(self, job: ClaimedJob, pixels: Pixels | None) -> ShadowImage:
        shape = None
        with suppress(CxrError):  # retention may have removed the file
            shape = self._shape_of(job)
        return ShadowImage(path=str(self._path_of(job.spool_name)), shape=shape, pixels=pixels)

    def _score_in_child(
        self, child: _Child, batch: ShadowBatch, stop: threading.Event
    ) -> list[ScoredImage | None] | ShadowError | None:
        """Score a batch in the child; None: ``stop`` was set. A child that exceeds the time limit is killed."""
        deadline = time.monotonic() + self._settings.shadow_timeout_s
        # In a thread, because sending blocks if the child does not read.
        future: Future[Any] = child.talking.submit(child.score, batch)
        while not wait([future], timeout=0.1).done:
            if stop.is_set():
                self.close()
                return None
            if time.monotonic() > deadline:
                self.close()
                return TIMED_OUT
        try:
            answer: list[ScoredImage | None] | ShadowError = future.result()
        except (EOFError, OSError):
            self.close()
            return CRASHED
        return answer

    def _store(self, jobs: Sequence[ClaimedJob], answer: Sequence[ScoredImage | None]) -> None:
        scored = [(job, each) for job, each in zip(jobs, answer, strict=True) if each is not None]
        with self._database.begin() as session:
            for job, each in scored:
                shadow_scores.write_scores(session, job.id, each, now=self._clock())
        self._failures = 0
        self._metrics.count("scored", len(scored))
        self._metrics.count("failed", len(jobs) - len(scored))

    def _failed(self, code: str, *, is_final: bool = False) -> None:
        """Log a failure; switch the shadow off if it is final or the last of ``GIVE_UP_AFTER`` in a row."""
        self._failures += 1
        log.warning("shadow_failed", fingerprint=self._fingerprint, code=code, attempt=self._failures)
        if self._failures < GIVE_UP_AFTER and not is_final:
            return
        self.close()
        fingerprint, self._fingerprint = self._fingerprint, None
        log.error("shadow_given_up", fingerprint=fingerprint, code=code)
        if fingerprint is not None:
            with suppress(CxrError), self._database.begin() as session:
                shadow_scores.give_up(session, fingerprint, code=code, now=self._clock())


def _code_of(error: Exception) -> str:
    return error.code if isinstance(error, CxrError) else CxrError.code
