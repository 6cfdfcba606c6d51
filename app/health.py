"""``cxr health``: whether a role works, not only whether its process is there; for a container's health check."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

import typer

from config.context import CommandContext
from config.settings import ListenerSettings, Settings
from cxr.errors import CxrError

app = typer.Typer(add_completion=False)

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
_A_ABORT = bytes.fromhex("07 00 00000004 00000000")


@app.command()
def health(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(help="listen or work.", metavar="ROLE")],
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds that it may take to answer.", min=0.1)] = 10.0,
) -> None:
    """Say whether a role of this installation works; exit code 1: it does not.

    Of both: the audit database can be read, and no process found it damaged. The listener: a connection to
    its port is taken and ended. The worker: the timers of one hold their lease in the audit database.

    Example: cxr health listen
    """
    from db.sqlite.connection import describe

    context: CommandContext = ctx.obj
    settings = context.settings()
    if role not in ("listen", "work"):
        raise typer.BadParameter(f"roles are listen and work; got {role!r}")
    is_well = database_is_sound(settings) and (
        listener_answers(settings.listener, timeout_s) if role == "listen" else timers_run(settings, datetime.now(UTC))
    )
    typer.echo(f"{'well' if is_well else 'not well'} ({describe(settings.database_path)})")
    raise typer.Exit(0 if is_well else 1)


def database_is_sound(settings: Settings) -> bool:
    """Whether the audit database can be read, and none of its processes found its file damaged.

    Parameters
    ----------
    settings
        Where the audit database is.
    """
    from db.sqlite import damage

    try:
        damage.probe(settings.database_path)
    except CxrError as error:
        typer.echo(str(error), err=True)
        return False
    if damage.is_noted(settings.database_path):
        typer.echo("The audit database was found damaged: `cxr db check` names the part.", err=True)
        return False
    return True


def listener_answers(settings: ListenerSettings, timeout_s: float) -> bool:
    """Open a connection, abort it, and see the listener end it: each of its threads had its part in that.

    Parameters
    ----------
    settings
        Address and port; where only the TLS port is open, that one.
    timeout_s
        How long each step may take.
    """
    port = settings.tls.port if settings.tls.required else settings.port
    try:
        with socket.create_connection((_ANY.get(settings.bind, settings.bind), port), timeout=timeout_s) as plain:
            if not settings.tls.required:
                return _is_ended(plain)
            try:
                with _own_context(settings).wrap_socket(plain) as secure:
                    return _is_ended(secure)
            except ssl.SSLEOFError:  # it hung up without a word
                return False
            except ssl.SSLError:  # it does not take this certificate, and said so
                return True
    except OSError:
        return False


def _is_ended(connection: socket.socket) -> bool:
    connection.sendall(_A_ABORT)
    with suppress(ConnectionResetError):
        while connection.recv(1024):
            continue
    return True


def _own_context(settings: ListenerSettings) -> ssl.SSLContext:
    """Be whoever has the listener's certificate; who it is that answers does not matter here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if settings.tls.certificate is not None:
        context.load_cert_chain(settings.tls.certificate, settings.tls.key)
    return context


def timers_run(settings: Settings, now: datetime) -> bool:
    """Whether the timers of some worker hold their lease.

    Parameters
    ----------
    settings
        Where the audit database is.
    now
        The time.

    Raises
    ------
    StorageError
        If the audit database can't be read.
    """
    from app.timers import LEASE
    from db.engine import open_database
    from db.upkeep import leases

    database = open_database(
        settings.database_path, settings.audit_key_path, create=False, traces=settings.database_traces
    )
    try:
        with database.read() as session:
            return leases.is_held(session, name=LEASE, now=now)
    finally:
        database.dispose()
