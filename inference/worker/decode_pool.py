"""Decode and prepare images in processes of their own.

The decoders are C code over bytes that anybody may have sent. One that crashes, hangs or asks for
more memory than any image needs fails its image, with ``DecoderError`` where its process goes with it;
the worker goes on.

pebble keeps the processes, starts new ones and enforces the timeout. It gives its pool up, though,
when a process is killed that had nothing to do, and can be left waiting when one is killed while it
hands over a result; a thread here sees both and starts a new pool. Images that no process had begun
with are handed to the new pool: only the image in hand fails with its process.
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
from inference.worker.decode_process import Refusal, prepare, start

Prepared = tuple[NDArray[np.float32], ...]
"""One picture for each recipe."""

log = get_logger(__name__)

_WATCH_S: Final = 0.5
# Beyond two timeouts, what the slowest machine needs to start a process.
_START_S: Final = 60.0
# What stopping may take: pebble gives each process 3 s before it kills it.
_END_S: Final = 30.0
# How often an image that no process had begun with is handed to a new pool.
_MOST_POOLS: Final = 5


@dataclass(slots=True, eq=False)
class _Pool:
    """A pool of pebble's, and the flag that tells its processes to end."""

    processes: ProcessPool
    is_stopping: c_bool

    def dispose(self) -> threading.Thread:
        """End the processes, in a thread: what is broken may not come back from being stopped."""
        self.is_stopping.value = True
        disposing = threading.Thread(target=self._dispose, name="preparer-dispose", daemon=True)
        disposing.start()
        return disposing

    def _dispose(self) -> None:
        self.processes.stop()  # type: ignore[no-untyped-call]
        self.processes.join()


@dataclass(slots=True, eq=False)
class _Task:
    """One image, in the pool that has it now."""

    path: Path
    outer: Future[Prepared]
    pool: _Pool
    inner: Future[Prepared | Refusal] | None = None  # pebble's; None: not handed over yet
    pools: int = 1  # that had it, this one included

    @property
    def is_begun(self) -> bool:
        """Whether a process said that it works on the image."""
        return self.inner is not None and self.inner.running()


class Preparer:
    """Prepares images in child processes; a context manager.

    Parameters
    ----------
    recipes
        How pixels become each model's input; the first says which images are accepted.
    processes
        How many images are prepared at once.
    timeout_s
        How long one image may take, in seconds, from when a process begins with it.
    max_megapixels
        Rows x Columns, in millions, beyond which an image is refused.
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
        self._watcher.start()  # and starts the processes, while the model still loads
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; images that are not done fail with ``DecoderError``."""
        self._closing.set()
        if self._watcher.is_alive():
            self._watcher.join()
        self._pool.dispose().join(_END_S)
        self._fail(self._pool, "The worker was stopped before the image was prepared; it is retried.")

    def submit(self, path: Path) -> Future[Prepared]:
        """Hand over one image file.

        Parameters
        ----------
        path
            A DICOM, PNG or JPEG file.

        Returns
        -------
        Future
            Of one float32 (size, size, 1) in [0, 1] for each recipe. Its exception is one of
            ``ImageError`` (as ``cxr.pixels.model_input.to_model_input`` raises it), or ``DecoderError`` if the
            process crashed, ran out of time or could not do its work.
        """
        if self._closing.is_set():
            raise DecoderError("The preparer is closed; open a new one.")
        with self._lock:
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
        except RuntimeError:  # the pool has given up; this image is the first to notice
            self._replace(pool)
        else:
            task.inner.add_done_callback(partial(self._settle, task, pool))

    def _new_pool(self) -> _Pool:
        # pebble's own threads look for dead processes and timeouts this often; its default costs an idle worker
        # a fifth of a percent of a core. Results don't wait for it.
        CONSTS.sleep_unit = _WATCH_S
        context = multiprocessing.get_context("spawn")  # a fork would copy TensorFlow's threads' locks
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

    def _settle(self, task: _Task, pool: _Pool, inner: Future[Prepared | Refusal]) -> None:
        """Pass the outcome of pebble's future on, in the project's own errors."""
        if task.pool is not pool:
            return  # another pool has it now
        try:
            outcome = inner.result()
        except TimeoutError:
            outcome = self._failure(f"Preparing the image took longer than {self._timeout_s:g} s")
        except ProcessExpired as error:
            outcome = self._failure(f"The process that prepared the image ended with code {error.exitcode}")
        except BrokenProcessPool:  # pebble raises it where no process had begun with any image
            self._replace(pool)
            return
        except (CancelledError, RuntimeError, OSError) as error:  # the pool was stopped
            outcome = self._failure(f"The processes that prepare images were lost ({type(error).__name__})")
        self._finish(task, outcome)

    @staticmethod
    def _failure(what: str) -> Refusal:
        return Refusal(DecoderError, f"{what}; it is retried.")

    def _finish(self, task: _Task, outcome: Prepared | Refusal) -> None:
        with self._lock:
            self._last_progress = time.monotonic()
            if task not in self._outstanding:
                return  # given up before
            self._outstanding.remove(task)
        if not task.outer.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Refusal):
            task.outer.set_exception(outcome.error(outcome.message))
        else:
            task.outer.set_result(outcome)

    def _watch(self) -> None:
        while True:
            try:
                pool = self._pool
                if not pool.processes.active or self._is_stuck():
                    self._replace(pool)
            except Exception:  # a process loop: a system that is short of files or memory now may not be so later
                log.exception("unexpected")
            if self._closing.wait(_WATCH_S):
                return

    def _is_stuck(self) -> bool:
        """Whether nothing came back for longer than any image may take."""
        with self._lock:
            silent_s = time.monotonic() - self._last_progress
            return bool(self._outstanding) and silent_s > 2 * self._timeout_s + _START_S

    def _replace(self, pool: _Pool) -> None:
        """Start a new pool in the place of one that is broken, and hand it the images that nobody had begun with."""
        with self._lock:
            if self._pool is pool:
                self._pool = self._new_pool()
                pool.dispose()
            its = [task for task in self._outstanding if task.pool is pool]
            innocent = [task for task in its if not task.is_begun and task.pools < _MOST_POOLS]
            for task in innocent:
                task.pool, task.inner, task.pools = self._pool, None, task.pools + 1
            self._last_progress = time.monotonic()
        self._fail(pool, "The processes that prepare images were lost; it is retried.")
        for task in innocent:
            self._schedule(task)

    def _fail(self, pool: _Pool, message: str) -> None:
        with self._lock:
            lost = [task for task in self._outstanding if task.pool is pool]
        for task in lost:
            self._finish(task, Refusal(DecoderError, message))
