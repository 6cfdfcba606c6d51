"""``cxr health``: check that a role works, not only that its process exists; for health checks of containers."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer

from config.context import CommandContext
from config.settings import ListenerSettings, Settings
from cxr.errors import CxrError

app = typer.Typer(add_completion=False)

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
_A_ABORT = bytes.fromhex("07 00 00000004 00000000")


@dataclass(frozen=True, slots=True)
class Check:
    """Result of the check of one part."""

    is_well: bool
    detail: str  # a sentence for people


@app.command()
def health(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(help="listen or work.", metavar="ROLE")],
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds that an answer may take.", min=0.1)] = 10.0,
) -> None:
    """Check whether a role of this installation works; exit code 1: it does not.

    For both roles the audit database has to be readable and undamaged. The listener has to accept and close a
    connection on its port. Of the workers, one has to hold the lease of the timers in the audit database.

    Example: cxr health listen
    """
    context: CommandContext = ctx.obj
    settings = context.settings()
    if role not in ("listen", "work"):
        raise typer.BadParameter(f"roles are listen and work; got {role!r}")
    result = check_database(settings)
    if result.is_well:
        result = check_listener(settings, timeout_s) if role == "listen" else check_worker(settings, datetime.now(UTC))
    typer.echo(f"{'well' if result.is_well else 'not well'}: {result.detail}")
    raise typer.Exit(0 if result.is_well else 1)


def check_database(settings: Settings) -> Check:
    """Check that the audit database can be read and that no process has noted damage.

    Parameters
    ----------
    settings
        Path of the audit database.
    """
    from db.sqlite import damage
    from db.sqlite.connection import describe

    try:
        damage.probe(settings.database_path)
    except CxrError as error:
        return Check(False, str(error))
    if damage.is_noted(settings.database_path):
        return Check(False, "the audit database was found damaged: `cxr db check` names the part")
    return Check(True, describe(settings.database_path))


def check_listener(settings: Settings, timeout_s: float) -> Check:
    """Connect to the listener, send A-ABORT and wait until it closes the connection; that needs all of its threads.

    Parameters
    ----------
    settings
        The data folder, whose lock file holds the address of the running listener (``cxr serve --port``); the address
        of the settings if none runs.
    timeout_s
        Limit of each step.
    """
    from db.disk import running_listener

    listening = settings.listener
    actual = running_listener(settings.data_dir) or {
        "bind": listening.bind,
        "port": None if listening.tls.required else listening.port,
        "tls_port": listening.tls.port,
    }
    is_tls = actual.get("port") is None
    host, port = str(actual.get("bind", listening.bind)), int(actual.get("port") or actual.get("tls_port") or 0)
    address = f"{listening.ae_title}@{host}:{port}{' (TLS)' if is_tls else ''}"
    try:
        fault = _connect_and_abort(listening, _ANY.get(host, host), port, is_tls=is_tls, timeout_s=timeout_s)
    except ConnectionRefusedError:
        fault = "nothing listens there; is `cxr serve` or `cxr listen` running?"
    except TimeoutError:
        fault = f"no answer within {timeout_s:g} s"
    except OSError as error:
        fault = error.strerror or type(error).__name__
    return Check(not fault, f"the listener {address}" + (f": {fault}" if fault else " takes connections"))


def _connect_and_abort(
    settings: ListenerSettings, host: str, port: int, *, is_tls: bool, timeout_s: float
) -> str | None:
    """Return the fault, None if there is none."""
    with socket.create_connection((host, port), timeout=timeout_s) as plain:
        if not is_tls:
            return None if _closes_after_abort(plain) else "it does not close an aborted connection"
        try:
            with _tls_context(settings).wrap_socket(plain) as secure:
                return None if _closes_after_abort(secure) else "it does not close an aborted connection"
        except ssl.SSLEOFError:
            return "it closes the connection within the TLS handshake"
        except ssl.SSLError:  # it answers, and refuses this certificate
            return None


def _closes_after_abort(connection: socket.socket) -> bool:
    connection.sendall(_A_ABORT)
    with suppress(ConnectionResetError):
        while connection.recv(1024):
            continue
    return True


def _tls_context(settings: ListenerSettings) -> ssl.SSLContext:
    """Return a TLS context that presents the certificate of the listener and verifies none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if settings.tls.certificate is not None:
        context.load_cert_chain(settings.tls.certificate, settings.tls.key)
    return context


def check_worker(settings: Settings, now: datetime) -> Check:
    """Check that the timers of one worker hold their lease.

    Parameters
    ----------
    settings
        Path of the audit database.
    now
        Current time; aware.
    """
    from app.timers import LEASE
    from db.engine import open_database
    from db.upkeep import leases

    try:
        database = open_database(
            settings.database_path, settings.audit_key_path, create=False, traces=settings.database_traces
        )
    except CxrError as error:
        return Check(False, str(error))
    try:
        with database.read() as session:
            is_held = leases.is_held(session, name=LEASE, now=now)
    except CxrError as error:
        return Check(False, str(error))
    finally:
        database.dispose()
    if is_held:
        return Check(True, "a worker holds the lease of the timers")
    return Check(False, "no worker holds the lease of the timers; is `cxr serve` or `cxr work` running?")
