"""``cxr serve``: listener and worker as two child processes of one command.

A child that ends is started again; a child that refuses its settings (an unreadable certificate) ends the command
(``app.supervise``). The data folder and the ports of the listener are checked before a child is started.
"""

from __future__ import annotations

from typing import Annotated

import typer

from app.announce import announce_listener
from app.supervise import SETTINGS_FAULT, Child, stop_event, supervise
from config.advice import advice
from config.checks import check_start, mode_notes
from config.context import CommandContext
from config.logs import configure
from config.metrics import check_port
from config.settings import Settings
from cxr.product import NOTICE

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    ctx: typer.Context,
    port: Annotated[int | None, typer.Option(help="Port of the listener; the setting listener.port.")] = None,
) -> None:
    """Run listener and worker together until Ctrl-C.

    Example: cxr serve --port 11113
    """
    context: CommandContext = ctx.obj
    context = context.with_overrides({"listener": {"port": port}} if port else {})
    settings = context.settings()
    configure(settings.log)
    check_start(settings)
    prepare(settings)
    typer.echo(_banner(settings), err=True)
    stop = stop_event()
    announce_listener(settings, stop)
    arguments = context.as_arguments()
    children = [Child(role, arguments) for role in ("listen", "work")]
    stop_timeout_s = settings.listener.drain_timeout_s + settings.worker.decode_timeout_s
    if not supervise(children, stop, stop_timeout_s=stop_timeout_s):
        raise typer.Exit(SETTINGS_FAULT)


def prepare(settings: Settings) -> None:
    """Check the data folder and the ports, and create the database, so that each fault of a start is reported once.

    Raises
    ------
    SettingsError
        If the data folder can't be written, another listener uses it, or a port is in use.
    StorageError
        If the database can't be used.
    """
    from db.engine import open_database
    from listener.startup import check_ports, locked_storage

    with locked_storage(settings):
        check_ports(settings)
        if settings.metrics.worker_port is not None:
            check_port(settings.metrics.bind, settings.metrics.worker_port, setting="metrics.worker_port")
    open_database(
        settings.database_path, settings.audit_key_path, create=True, traces=settings.database_traces
    ).dispose()


def _banner(settings: Settings) -> str:
    listening = settings.listener
    port = listening.tls.port if listening.tls.required else listening.port
    address = f"{listening.ae_title}@{listening.bind}:{port}"
    destinations = ", ".join(destination.name for destination in settings.destinations) or "none (results stay here)"
    return (
        f"cxr-listener: {NOTICE}\n"
        f"  receives   {address}\n"
        f"  keeps      {settings.data_dir}/ (audit database: {settings.database_path})\n"
        f"  delivers   {destinations}\n"
        "  stop with Ctrl-C; query with `cxr audit list`"
        + "".join(f"\n  note       {sentence}" for sentence in (*advice(settings), *mode_notes(settings)))
    )
