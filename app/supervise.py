"""Child processes of a supervising command, and the signals that stop a process.

A child that ends is started again, after a wait that doubles while it keeps ending early. A child that exits with
`SETTINGS_FAULT` at its first start ends the command. Each child reads a pipe from its parent, so that it stops when
the parent is killed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from config.logs import get_logger
from config.parent_process import call_at_parent_end

log = get_logger(__name__)

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
STEADY_AFTER_S = 60.0
SETTINGS_FAULT = 2  # exit code of a role whose settings can't be used


@dataclass
class Child:
    """One role, as a process that is started again when it ends."""

    role: str
    arguments: Sequence[str]  # of the command, before the role
    options: Sequence[str] = ()  # of the role
    process: subprocess.Popen[bytes] | None = None
    wait_s: float = FIRST_WAIT_S
    started_at: float = 0.0
    start_again_at: float = field(default=0.0)
    was_steady: bool = False
    is_refused: bool = False

    def start(self) -> None:
        """Start the role; its standard input is a pipe that closes when this process ends."""
        command = [sys.executable, "-P", "-m", "app", *self.arguments, self.role, "--with-parent", *self.options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.started_at = time.monotonic()
        log.info("child_started", role=self.role, pid=self.process.pid)

    def watch(self) -> None:
        """Start the role if it is due, and plan its next start if it has ended."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.start_again_at:
                self.start()
        elif (code := self.process.poll()) is not None:
            self.was_steady = self.was_steady or now - self.started_at > STEADY_AFTER_S
            self.wait_s = FIRST_WAIT_S if now - self.started_at > STEADY_AFTER_S else self.wait_s
            # After a steady run the fault may be temporary, and the other roles keep working.
            self.is_refused = code == SETTINGS_FAULT and not self.was_steady
            log.error("child_ended", role=self.role, code=code, wait_s=self.wait_s)
            self.process, self.start_again_at = None, now + self.wait_s
            self.wait_s = min(2 * self.wait_s, LONGEST_WAIT_S)

    def terminate(self) -> None:
        """Send SIGTERM; the role then finishes the objects or jobs in flight."""
        if self.process is not None:
            self.process.terminate()

    def wait_or_kill(self, deadline: float) -> None:
        """Wait for the end of the process until the deadline (``time.monotonic``), then kill it."""
        if self.process is None:
            return
        try:
            self.process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("child_killed", role=self.role)
            self.process.kill()
            self.process.wait()


def supervise(children: Sequence[Child], stop: threading.Event, *, stop_timeout_s: float) -> bool:
    """Keep the children running until ``stop`` is set or a child refuses its settings, then stop all of them.

    Parameters
    ----------
    children
        The roles.
    stop
        Set by a signal.
    stop_timeout_s
        Seconds until a child that does not end is killed.

    Returns
    -------
    bool
        True after ``stop``; False: a child can't use its settings.
    """
    while not (stop.is_set() or any(child.is_refused for child in children)):
        for child in children:
            child.watch()
        stop.wait(0.2)
    for child in children:
        child.terminate()
    deadline = time.monotonic() + stop_timeout_s
    for child in children:
        child.wait_or_kill(deadline)
    log.info("stopped")
    return not any(child.is_refused for child in children)


def stop_event(*, with_parent: bool = False) -> threading.Event:
    """Return an event that is set when this process has to stop: by SIGTERM, SIGINT or the end of its parent.

    Parameters
    ----------
    with_parent
        Whether standard input is a pipe from the parent, whose end (also by a kill of the parent) sets the event.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if with_parent:
        call_at_parent_end(stop.set)
    return stop
