"""How a process of ours is asked to stop: SIGTERM, Ctrl-C, or the death of the parent that started it."""

from __future__ import annotations

import os
import signal
import sys
import threading


def stop_event(*, with_parent: bool = False) -> threading.Event:
    """Return an event that is set when this process shall finish what it is doing and end.

    Parameters
    ----------
    with_parent
        Standard input is a pipe from the parent; its end, which also comes when the parent is
        killed, is a request to stop.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if with_parent:
        threading.Thread(target=_wait_for_parent, args=(stop,), name="parent", daemon=True).start()
    return stop


def _wait_for_parent(stop: threading.Event) -> None:
    # os.read and not sys.stdin: a daemon thread inside a buffered read blocks the interpreter's exit.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    stop.set()
