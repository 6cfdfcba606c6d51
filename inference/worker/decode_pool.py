"""Decode and prepare images in child processes.

The decoders are C code that reads untrusted bytes. A decoder that crashes, hangs or exceeds the memory limit
fails its image with ``DecoderError``; the worker continues.

pebble runs the processes, replaces dead ones and enforces the timeout. But it abandons its pool when an idle process
is killed, and can block for ever when a process is killed while it returns a result. A thread here detects
both and starts a new pool. Images that no process had started are resubmitted to the new pool, so that only the
images that a process was preparing fail with it.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_bool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from pebble import CONSTS, ProcessExpired, ProcessPool

from config.logs import get_logger
from cxr.errors import DecoderError
from cxr.pixels.pixel_header import DEFAULT_MAX_MEGAPIXELS
from cxr.pixels.recipe import PixelRecipe
from inference.worker.decode_process import ChildError, prepare, start

Pictures = tuple[NDArray[np.float32], ...]
"""One picture per recipe, each float32 of shape (size, size, 1) in [0, 1]."""

log = get_logger(__name__)

_WATCH_S: Final = 0.5
# Time to start a process on a slow machine, in addition to two timeouts.
_START_S: Final = 60.0
# Limit for stopping; pebble kills a process after 3 s.
_END_S: Final = 30.0
# Largest number of pools to which an unstarted image is submitted.
_MOST_POOLS: Final = 5


@dataclass(slots=True, eq=False)
class _Pool:
    """A pebble pool with the shared flag that marks an orderly stop."""

    processes: ProcessPool
    is_stopping: c_bool

    def dispose(self) -> threading.Thread:
        """Stop the processes, in a thread because stopping a broken pool may block."""
        self.is_stopping.value = True
        disposing = threading.Thread(target=self._dispose, name="preparer-dispose", daemon=True)
        disposing.start()
        return disposing

    def _dispose(self) -> None:
        self.processes.stop()  # type: ignore[no-untyped-call]
        self.processes.join()


@dataclass(slots=True, eq=False)
class _Task:
    """One image and the pool it was submitted to."""

    path: Path
    outer: Future[Pictures]
    pool: _Pool
    inner: Future[Pictures | ChildError] | None = None  # pebble's future; None: not submitted yet
    pools: int = 1  # number of pools it was submitted to

    @property
    def is_started(self) -> bool:
        """Whether a process has started to work on the image."""
        return self.inner is not None and self.inner.running()


class DecodePool:
    """Prepares images in child processes; a context manager.

    Parameters
    ----------
    recipes
        Pixel recipe of each model; the first determines which images are accepted.
    processes
        Number of processes.
    timeout_s
        Time limit for one image, in seconds, from the start of its preparation.
    max_megapixels
        Largest accepted Rows x Columns, in millions.
    """

    def __init__(
        self, *recipes: PixelRecipe, processes: int, timeout_s: float, max_megapixels: int = DEFAULT_MAX_MEGAPIXELS
    ) -> None:
        self._recipes = recipes
        self._processes = processes
        self._timeout_s = timeout_s
        self._max_megapixels = max_megapixels
        self._lock = threading.Lock()
        self._pool = self._new_pool()
        self._outstanding: set[_Task] = set()
        self._last_progress = time.monotonic()
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="preparer-watch", daemon=True)

    def __enter__(self) -> Self:
        self._watcher.start()  # also starts the processes, while the model is loading
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the processes; unfinished images fail with ``DecoderError``."""
        with self._lock:  # no pool is replaced from here on: its processes would outlive this one
            self._closing.set()
        if self._watcher.is_alive():
            self._watcher.join()
        self._pool.dispose().join(_END_S)
        self._fail(self._pool, "The worker was stopped before the image was prepared; it is retried.")

    def submit(self, path: Path) -> Future[Pictures]:
        """Submit one image file.

        Parameters
        ----------
        path
            DICOM, PNG or JPEG file.

        Returns
        -------
        Future
            One picture per recipe: float32 (size, size, 1) in [0, 1]. Its exception is an ``ImageError`` of
            ``cxr.pixels.model_input.to_model_input``, or ``DecoderError`` if the process crashed, exceeded
            the time limit or failed unexpectedly.

        Raises
        ------
        DecoderError
            If the pool is closed.
        """
        with self._lock:
            if self._closing.is_set():
                raise DecoderError("The decoding pool is closed; open a new one.")
            if not self._outstanding:
                self._last_progress = time.monotonic()
            task = _Task(path, Future(), self._pool)
            self._outstanding.add(task)
        self._schedule(task)
        return task.outer

    def _schedule(self, task: _Task) -> None:
        pool = task.pool
        try:
            task.inner = pool.processes.schedule(
                prepare, args=(str(task.path), self._recipes, self._max_megapixels), timeout=self._timeout_s
            )
        except RuntimeError:  # pebble has abandoned the pool
            self._replace_pool(pool)
        else:
            task.inner.add_done_callback(partial(self._on_done, task, pool))

    def _new_pool(self) -> _Pool:
        # pebble's own threads look for dead processes and timeouts this often; its default costs an idle worker
        # a fifth of a percent of a core. Results don't wait for it.
        CONSTS.sleep_unit = _WATCH_S
        context = multiprocessing.get_context("spawn")  # a fork would copy locks held by TensorFlow's threads
        is_stopping = context.RawValue(c_bool, False)
        return _Pool(
            ProcessPool(
                max_workers=self._processes,
                initializer=start,
                initargs=(is_stopping, self._max_megapixels),
                context=context,
            ),
            is_stopping,
        )

    def _on_done(self, task: _Task, pool: _Pool, inner: Future[Pictures | ChildError]) -> None:
        """Convert the outcome of pebble's future to a picture or an error of this project."""
        if task.pool is not pool:
            return  # resubmitted to another pool
        try:
            outcome = inner.result()
        except TimeoutError:
            outcome = self._failure(f"Preparing the image took longer than {self._timeout_s:g} s")
        except ProcessExpired as error:
            outcome = self._failure(f"The process that prepared the image ended with code {error.exitcode}")
        except BrokenProcessPool:  # raised by pebble if no process had started an image
            self._replace_pool(pool)
            return
        except (CancelledError, RuntimeError, OSError) as error:  # the pool was stopped meanwhile
            outcome = self._failure(f"The processes that prepare images were lost ({type(error).__name__})")
        self._finish(task, outcome)

    @staticmethod
    def _failure(message: str) -> ChildError:
        return ChildError(DecoderError, f"{message}; it is retried.")

    def _finish(self, task: _Task, outcome: Pictures | ChildError) -> None:
        with self._lock:
            self._last_progress = time.monotonic()
            if task not in self._outstanding:
                return  # failed before
            self._outstanding.remove(task)
        if not task.outer.set_running_or_notify_cancel():
            return
        if isinstance(outcome, ChildError):
            task.outer.set_exception(outcome.error(outcome.message))
        else:
            task.outer.set_result(outcome)

    def _watch(self) -> None:
        while True:
            try:
                pool = self._pool
                if not pool.processes.active or self._is_stuck():
                    self._replace_pool(pool)
            except Exception:  # a loop: a lack of file descriptors or memory may be temporary
                log.exception("unexpected")
            if self._closing.wait(_WATCH_S):
                return

    def _is_stuck(self) -> bool:
        """Return whether images are outstanding and none has ended for longer than the time limit allows."""
        with self._lock:
            silent_s = time.monotonic() - self._last_progress
            return bool(self._outstanding) and silent_s > 2 * self._timeout_s + _START_S

    def _replace_pool(self, pool: _Pool) -> None:
        """Replace a broken pool; resubmit unstarted images to the new one and fail the others."""
        with self._lock:
            if self._closing.is_set():
                return  # pebble also reports a pool as broken while it is stopped; close() fails its images
            if self._pool is pool:
                self._pool = self._new_pool()
                pool.dispose()
            affected = [task for task in self._outstanding if task.pool is pool]
            unstarted = [task for task in affected if not task.is_started and task.pools < _MOST_POOLS]
            for task in unstarted:
                task.pool, task.inner, task.pools = self._pool, None, task.pools + 1
            self._last_progress = time.monotonic()
        self._fail(pool, "The processes that prepare images were lost; it is retried.")
        for task in unstarted:
            self._schedule(task)

    def _fail(self, pool: _Pool, message: str) -> None:
        with self._lock:
            lost = [task for task in self._outstanding if task.pool is pool]
        for task in lost:
            self._finish(task, ChildError(DecoderError, message))
