"""Lines for a person who watches a service start on a terminal; a log file gets the log records alone."""

from __future__ import annotations

import sys
import threading

import typer

from app.health import check_listener
from config.settings import Settings

_POLL_S = 0.2
_ANSWER_S = 5.0


def print_on_terminal(line: str) -> None:
    """Print a line on standard error where that is a terminal."""
    if sys.stderr.isatty():
        typer.echo(line, err=True)


def announce_listener(settings: Settings, stop: threading.Event) -> None:
    """Print a line as soon as the listener accepts connections; on a terminal only.

    Parameters
    ----------
    settings
        The data folder and the address of the listener.
    stop
        Ends the wait.
    """
    if sys.stderr.isatty():
        threading.Thread(target=_wait_for_listener, args=(settings, stop), name="announce", daemon=True).start()


def _wait_for_listener(settings: Settings, stop: threading.Event) -> None:
    while not stop.wait(_POLL_S):
        answer = check_listener(settings, _ANSWER_S)
        if answer.is_well:
            print_on_terminal(f"ready: {answer.detail}")
            return
