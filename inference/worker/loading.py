"""Load models in a thread, so that a stop does not wait for native code.

Python calls a signal's handler between two of its own instructions, in the main thread. While that thread is inside
TensorFlow or OpenVINO, which compile a graph for up to a minute on a slow machine, SIGTERM has no effect.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

Loaded = TypeVar("Loaded")

_CHECK_S = 0.1
GRACE_S = 2.0
"""Seconds after a stop in which a load may still end by itself."""


class StoppedWhileLoading(BaseException):
    """The worker has to stop, and native code may still run in another thread: end the process at once.

    No ``Exception``, as KeyboardInterrupt is none: no handler of failures may go on after it.
    """


def load_until_stopped(load: Callable[[], Loaded], stop: threading.Event) -> Loaded:
    """Load something and return it, unless ``stop`` is set before.

    Parameters
    ----------
    load
        Called in a thread that does not keep the process from ending; what it raises is raised here.
    stop
        Ends the wait.

    Raises
    ------
    StoppedWhileLoading
        If ``stop`` is set and the load does not end within `GRACE_S`.
    """
    loading: Future[Loaded] = Future()
    threading.Thread(target=_run, args=(load, loading), name="loading", daemon=True).start()
    while not (wait([loading], _CHECK_S).done or stop.is_set()):
        continue
    if not wait([loading], GRACE_S).done:
        raise StoppedWhileLoading
    return loading.result()


def _run(load: Callable[[], Loaded], loading: Future[Loaded]) -> None:
    try:
        loading.set_result(load())
    except BaseException as error:  # noqa: BLE001 (raised again in the thread that waits)
        loading.set_exception(error)
