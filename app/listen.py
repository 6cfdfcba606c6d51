"""``cxr listen``: the Storage SCP alone, as a container runs it."""

from __future__ import annotations

from typing import Annotated

import typer

from app.stopping import stop_event
from config.checks import check_start
from config.context import CommandContext
from config.logs import configure

app = typer.Typer(add_completion=False)


@app.command()
def listen(
    ctx: typer.Context,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Receive chest X-rays by C-STORE and keep the frontal ones for a worker.

    Example: cxr --config site.toml listen
    """
    from listener.scp import serve_forever

    context: CommandContext = ctx.obj
    settings = context.settings()
    configure(settings.log)
    check_start(settings)
    serve_forever(settings, stop_event(with_parent=with_parent))
