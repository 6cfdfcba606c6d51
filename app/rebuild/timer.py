"""Timer of rebuilds: start a child process at each scheduled time, and again after it was killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Final

from app.rebuild.schedule import Schedule, Start, decide
from config.logs import get_logger
from cxr.errors import CxrError
from db.models import rebuilds

if TYPE_CHECKING:
    from config.sections import RebuildSettings
    from db.engine import Database

log = get_logger(__name__)

STOP_TIMEOUT_S: Final = 10.0


class RebuildTimer:
    """Start a child process when a rebuild is due or unfinished; `tick` is called every minute.

    Parameters
    ----------
    settings
        The ``rebuild`` table.
    database
        Audit database, which records the rebuilds.
    arguments
        Global options that give the child the same settings.
    clock
        Returns the current time, aware.
    """

    def __init__(
        self,
        *,
        settings: RebuildSettings,
        database: Database,
        arguments: Sequence[str],
        clock: Callable[[], datetime],
    ) -> None:
        self._schedule = None if settings.cron is None else Schedule(settings.cron, settings.time_zone)
        self._database = database
        self._arguments = arguments
        self._clock = clock
        self._started_at = clock()
        self._child: subprocess.Popen[bytes] | None = None

    def tick(self) -> None:
        """Start a child if a rebuild is due or unfinished."""
        is_alive = self._child is not None and self._child.poll() is None
        with self._database.read() as session:
            under_way, latest = rebuilds.running(session), rebuilds.latest(session)
        decision = decide(
            self._schedule,
            under_way=under_way,
            latest=latest,
            is_child_alive=is_alive,
            service_started=self._started_at,
            now=self._clock(),
        )
        if isinstance(decision, Start):
            self._start("--due", decision.due_at.strftime("%Y-%m-%dT%H:%M:%S"))
        elif decision == "resume":
            self._start()

    def stop(self) -> None:
        """Stop the child; the next start of the service resumes its rebuild, and the stop counts as no attempt."""
        child = self._child
        if child is None or child.poll() is not None:
            self._close_pipe()
            return
        child.terminate()
        try:
            child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        self._close_pipe()
        with suppress(CxrError), self._database.begin() as session:
            under_way = rebuilds.running(session)
            if under_way is not None and under_way.attempts:
                rebuilds.count_attempt(session, under_way.id, by=-1)

    def _close_pipe(self) -> None:
        """Close the pipe to a child that has ended."""
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()

    def _start(self, *options: str) -> None:
        self._close_pipe()
        command = [sys.executable, "-P", "-m", "app", *self._arguments, "rebuild", *options, "--with-parent"]
        # Its standard input is a pipe that closes when this process ends, also by a kill.
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, umask=0o077)
        log.info("child_started", role="rebuild", pid=self._child.pid)
