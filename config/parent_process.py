"""Detection of the parent process's end, so that no child process outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable


def end_with_parent() -> None:
    """End this process when its parent has ended, even by SIGKILL, and even while native code hangs.

    For child processes of `multiprocessing`; starts a thread.
    """
    threading.Thread(target=_exit_after_parent, name="parent", daemon=True).start()


def call_at_parent_end(action: Callable[[], object]) -> None:
    """Call an action when the parent has ended, even by SIGKILL.

    Parameters
    ----------
    action
        Called once, in a thread of its own, when standard input, a pipe from the parent, is closed.
    """
    threading.Thread(target=_call_after_input, args=(action,), name="parent", daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call_after_input(action: Callable[[], object]) -> None:
    # os.read and not sys.stdin: a daemon thread inside a buffered read blocks the interpreter's exit.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    action()
