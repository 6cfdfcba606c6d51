"""``cxr listen``: the Storage SCP alone, as a container runs it.

With ``listener.processes`` above one this process starts that many receivers and receives nothing itself. They listen
on the same port (SO_REUSEPORT); the kernel distributes the connections.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Annotated

import typer

from app.supervise import SETTINGS_FAULT, Child, stop_event, supervise
from config.checks import check_start
from config.context import CommandContext
from config.logs import configure
from config.settings import Settings

app = typer.Typer(add_completion=False)

_ABORT_S = 10.0  # for the end of associations that are aborted after the drain


@app.command()
def listen(
    ctx: typer.Context,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    process: Annotated[int | None, typer.Option("--process", hidden=True)] = None,
) -> None:
    """Receive chest X-rays by C-STORE and keep the frontal ones for a worker.

    Example: cxr --config site.toml listen
    """
    context: CommandContext = ctx.obj
    settings = context.settings()
    configure(settings.log)
    check_start(settings)
    stop = stop_event(with_parent=with_parent)
    if settings.listener.processes > 1 and process is None:
        _listen_in_processes(settings, context.as_arguments(), stop)
        return
    from listener.scp import serve_forever

    serve_forever(settings, stop, process=process)


def _listen_in_processes(settings: Settings, arguments: Sequence[str], stop: threading.Event) -> None:
    from listener.startup import prepared

    children = [Child("listen", arguments, ("--process", str(number))) for number in range(settings.listener.processes)]
    with prepared(settings):
        if not supervise(children, stop, stop_timeout_s=settings.listener.drain_timeout_s + _ABORT_S):
            raise typer.Exit(SETTINGS_FAULT)
