"""``cxr demo``: send the example radiograph to the running service and show its result."""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer
from rich.console import Console

from app.setup.templates import template
from config.context import CommandContext
from config.logs import configure
from config.settings import LogSettings, Settings
from cxr.domain import DeliveryState, JobState
from cxr.errors import PeerUnreachable, SettingsError
from cxr.product import NOTICE

if TYPE_CHECKING:
    from db.engine import Database
    from db.results.queries import Timeline
    from inference.delivery.association import Address

app = typer.Typer(add_completion=False)

FILM: Final = "example/frontal.dcm"

_CALLING: Final = "CXRDEMO"
_POLL_S: Final = 0.5
_WAITING: Final = (JobState.QUEUED, JobState.SCORING)
_UNDELIVERED: Final = (DeliveryState.PENDING,)
_LOCAL: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # an address to call


@app.command()
def demo(
    ctx: typer.Context,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the result.", min=1)] = 300.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Deliver the report without asking.")] = False,
) -> None:
    """Send the example radiograph to the running service, wait for its result and show it.

    Example: cxr demo
    """
    context: CommandContext = ctx.obj
    settings = context.settings()
    configure(LogSettings(level="error"))
    address = demo_address(settings)
    _confirm_delivery(settings, address.calling_ae_title, yes=yes)
    console = Console()
    film = template(FILM)
    uid = _send(film, address)
    console.print(f"Sent {film.name} to {address.ae_title}@{address.host}:{address.port}.", markup=False)
    timeline = _wait_for_result(settings, uid, timeout_s, console)
    for line in describe(timeline):
        console.print(line, markup=False, soft_wrap=True)
    raise typer.Exit(0 if timeline.job["state"] == JobState.REPORTED else 1)


def demo_address(settings: Settings) -> Address:
    """Return the address of the running listener and a calling AE title that it accepts.

    Raises
    ------
    SettingsError
        If it accepts TLS only, or no ``[[peers]]`` entry covers this machine.
    """
    from inference.delivery.association import Address

    listening = settings.listener
    if listening.tls.required:
        raise SettingsError("This listener accepts TLS only (listener.tls.required); the demo sends without TLS.")
    host = _LOCAL.get(listening.bind, listening.bind)
    ours = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    titles = [peer.ae_title for peer in settings.peers if ours in ipaddress.ip_network(peer.network)]
    if settings.peers and not titles:
        raise SettingsError(
            f"No [[peers]] entry lets this machine send to {host}: add one with its address, for example "
            f'ae_title = "{_CALLING}" and network = "{host}", and start the service again.'
        )
    return Address(
        ae_title=listening.ae_title,
        host=host,
        port=listening.port,
        calling_ae_title=titles[0] if titles else _CALLING,
        timeout_s=30.0,
    )


def _confirm_delivery(settings: Settings, title: str, *, yes: bool) -> None:
    """Ask before the report of the example is delivered to a destination."""
    bound = [
        destination.name
        for destination in settings.destinations
        if not destination.from_peers or title in destination.from_peers
    ]
    if bound and not yes:
        typer.confirm(f"The report of the example film will be delivered to {', '.join(bound)}. Go on?", abort=True)


def _send(film: Path, address: Address) -> str:
    """Store the film; return its SOP Instance UID."""
    from app.send.files import read_sendable
    from app.send.store import store_files

    if not film.is_file():
        raise SettingsError("The example film is not part of this installation: send a film of your own by `cxr send`.")
    sendable = read_sendable(film)
    (outcome,) = store_files(address, [sendable])
    where = f"{address.ae_title}@{address.host}:{address.port}"
    if outcome.code == PeerUnreachable.code:
        _fail(f"No listener answers at {where}: start `cxr serve` first, with the same settings.")
    if outcome.code is not None:
        status = "" if outcome.status is None else f" (status 0x{outcome.status:04X})"
        _fail(f"The listener at {where} did not store the film: {outcome.code}{status}.")
    return sendable.sop_instance_uid


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)


def _wait_for_result(settings: Settings, uid: str, timeout_s: float, console: Console) -> Timeline:
    from db.engine import open_database
    from db.identifiers import load_identifiers

    identifiers = load_identifiers(settings.audit.identifiers, settings.pseudonym_key_path, create=False)
    database = open_database(settings.database_path, settings.audit_key_path, create=False, identifiers=identifiers)
    deadline = time.monotonic() + timeout_s
    try:
        with console.status("waiting for the worker (its first start loads the model)"):
            timeline = _read(database, uid)
            while not _is_settled(timeline) and time.monotonic() < deadline:
                time.sleep(_POLL_S)
                timeline = _read(database, uid)
    finally:
        database.dispose()
    if timeline.job["state"] in _WAITING:
        _fail(
            f"Image {timeline.image['image_id']} is still {timeline.job['state']} after {timeout_s:.0f} s: is a worker "
            "running (`cxr health work`)? `cxr audit show "
            f"{timeline.image['image_id']}` shows it later."
        )
    return timeline


def _read(database: Database, uid: str) -> Timeline:
    from db.results.queries import show

    with database.read() as session:
        return show(session, uid)[0]


def _is_settled(timeline: Timeline) -> bool:
    is_scored = timeline.job["state"] not in _WAITING
    return is_scored and all(row["state"] not in _UNDELIVERED for row in timeline.deliveries)


def describe(timeline: Timeline) -> list[str]:
    """Return the result of the film, line by line.

    Parameters
    ----------
    timeline
        Its rows of the audit database.
    """
    image, decision, job = timeline.image, timeline.decision, timeline.job
    lines = [
        f"  image      {image['image_id']}, received {image['received_at']}",
        f"  view       {decision['view']} ({decision['reason']})",
        f"  state      {job['state']}" + (f" ({job['reason'] or job['error_code']})" if not timeline.scores else ""),
    ]
    for row in timeline.scores:
        side = "at or above" if row["score"] >= row["threshold"] else "below"
        lines.append(f"  score      {row['finding']} {row['score']:.4f}, {side} the threshold {row['threshold']:.4f}")
        lines.append(f"  model      {row['model']} {row['model_version']}")
    lines += [f"  report     {row['kind']}, SOP Instance UID {row['sop_instance_uid']}" for row in timeline.reports]
    lines += [f"  delivery   {row['destination']}: {row['state']}" for row in timeline.deliveries]
    if not timeline.deliveries:
        lines.append("  delivery   none (no destination; the report stays in the data folder)")
    return [*lines, NOTICE, f"More: cxr audit show {image['image_id']}"]
