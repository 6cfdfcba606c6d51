"""``cxr rebuild``: fine-tune on new labelled images, up to the step before promotion."""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from config.checks import check_start
from config.context import CommandContext
from config.logs import configure
from cxr.domain import RebuildState

app = typer.Typer(add_completion=False)


@app.command()
def rebuild(
    ctx: typer.Context,
    due: Annotated[datetime | None, typer.Option(hidden=True)] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fine-tune on new labelled images, as the settings table ``rebuild`` describes, and stop before promotion.

    One at a time; one that was killed goes on where it was. Exit code 1: it failed, or another is at work.

    Example: cxr --config site.toml rebuild
    """
    context: CommandContext = ctx.obj
    settings = context.settings()
    configure(settings.log)
    check_start(settings)
    if with_parent:
        threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    os.nice(settings.rebuild.nice)
    from config.native_logs import quiet_tensorflow

    quiet_tensorflow("auto")
    from app.rebuild.attempt import attempt

    due_at = None if due is None else due.replace(tzinfo=UTC)
    outcome = attempt(settings, due_at=due_at, clock=lambda: datetime.now(UTC))
    if outcome is None:
        typer.echo("A rebuild is at work already.", err=True)
        raise typer.Exit(1)
    if as_json:
        typer.echo(json.dumps(asdict(outcome)))
    elif not with_parent:
        typer.echo(
            f"{outcome.state}{f' ({outcome.error_code})' if outcome.error_code else ''}: see {settings.runs_dir}"
        )
    raise typer.Exit(1 if outcome.state is RebuildState.FAILED else 0)


def _end_with_parent() -> None:
    """End with the service, in whatever is being done: the next attempt goes on from there."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(1)
