"""``cxr status``: the whole installation on one screen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.health import check_database, check_listener, check_worker
from app.installation import version_line
from config.context import CommandContext
from config.settings import Settings
from cxr.counts import counted
from cxr.domain import DeliveryState, JobState
from cxr.errors import CxrError
from cxr.product import NOTICE

if TYPE_CHECKING:
    from db.engine import Database

app = typer.Typer(add_completion=False)

_MIB: Final = 1024 * 1024
_GIB: Final = 1024**3
_BACKUP_IS_OLD: Final = timedelta(days=2)  # backups are made every night


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen."""

    part: str
    text: str
    needs_attention: bool = False


@app.command()
def status(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds for the listener to answer.", min=0.1)] = 5.0,
) -> None:
    """Show whether the service is up, its queues, and what needs attention; exit code 1: something does.

    Example: cxr status
    """
    context: CommandContext = ctx.obj
    settings = context.settings()
    lines = list(status_lines(settings, datetime.now(UTC), timeout_s=timeout_s))
    if as_json:
        typer.echo(json.dumps({line.part: asdict(line) for line in lines}))
    else:
        print_status(lines, Console())
    raise typer.Exit(1 if any(line.needs_attention for line in lines) else 0)


def print_status(lines: list[Line], console: Console) -> None:
    """Print one line per part, with ``!`` before a part that needs attention."""
    console.print(Text(f"{version_line()} - {NOTICE}"))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # a long path, whole
    for line in lines:
        style = "bold" if line.needs_attention else ""
        table.add_row("!" if line.needs_attention else " ", line.part, Text(line.text, style=style))
    console.print(table)


def status_lines(settings: Settings, now: datetime, *, timeout_s: float) -> Iterator[Line]:
    """Check every part of the installation.

    Parameters
    ----------
    settings
        All settings.
    now
        Current time; aware.
    timeout_s
        Limit of the answer of the listener.

    Yields
    ------
    Line
        One per part; without a readable database the parts that need it are left out.
    """
    listener, database = check_listener(settings, timeout_s), check_database(settings)
    yield Line("listener", listener.detail, not listener.is_well)
    if not database.is_well:
        yield Line("database", database.detail, needs_attention=True)
        return
    worker = check_worker(settings, now)
    yield Line("worker", worker.detail, not worker.is_well)
    try:
        yield from _lines_of_database(settings, now)
    except CxrError as error:
        yield Line("database", str(error), needs_attention=True)
        return
    yield Line("database", database.detail)
    yield _disk(settings)
    yield _backup(settings, now)


def _lines_of_database(settings: Settings, now: datetime) -> Iterator[Line]:
    from db.engine import open_database

    database = open_database(
        settings.database_path, settings.audit_key_path, create=False, traces=settings.database_traces
    )
    try:
        yield from _queues(database, now)
        yield _model(database)
    finally:
        database.dispose()


def _queues(database: Database, now: datetime) -> Iterator[Line]:
    from db import deliveries
    from db.jobs import operator_actions

    with database.read() as session:
        jobs = operator_actions.count_by_state(session)
        oldest_queued = operator_actions.oldest_change(session, JobState.QUEUED)
        oldest_held = operator_actions.oldest_change(session, JobState.HELD)
        delivery_counts = deliveries.count_by_state(session)
    yield Line(
        "waiting",
        f"{jobs[JobState.QUEUED]} queued{_since(oldest_queued, now)}, {jobs[JobState.SCORING]} being scored",
    )
    held = jobs[JobState.HELD]
    yield Line("held", f"{held}{_since(oldest_held, now)}" + (" - `cxr jobs list --state held`" if held else ""), False)
    failed = jobs[JobState.FAILED]
    yield Line("failed", f"{failed}" + (" - `cxr jobs list --state failed`" if failed else ""), failed > 0)
    dead = delivery_counts[DeliveryState.DEAD]
    yield Line(
        "delivery",
        f"{delivery_counts[DeliveryState.PENDING]} pending, {dead} dead"
        + (" - `cxr jobs list --dead-deliveries`" if dead else ""),
        dead > 0,
    )
    yield Line("results", f"{jobs[JobState.REPORTED]} reported, {jobs[JobState.NOT_SCORED]} not scored")


def _model(database: Database) -> Line:
    from db.models import list_activations

    with database.read() as session:
        latest = list_activations(session, limit=1)
    if not latest:
        return Line("model", "none in service yet: the worker's first start puts the default into service")
    (active,) = latest
    return Line("model", f"{active.name} {active.version} ({active.fingerprint[:12]}), {active.status}")


def _disk(settings: Settings) -> Line:
    free = shutil.disk_usage(settings.data_dir).free
    floor = settings.listener.min_free_mib * _MIB
    text = f"{free / _GIB:.1f} GiB free; below {floor / _GIB:.1f} GiB images are refused"
    return Line("disk", text, free < floor)


def _backup(settings: Settings, now: datetime) -> Line:
    from db.upkeep.backup import list_backups

    times = [path.stat().st_mtime for path in list_backups(settings.backup_dir)]
    if not times:
        return Line("backup", "none yet; one is made every night while a worker runs")
    age = now - datetime.fromtimestamp(max(times), UTC)
    return Line("backup", f"the last {_age_text(age)} ago, {len(times)} kept", age > _BACKUP_IS_OLD)


def _since(moment: datetime | None, now: datetime) -> str:
    return "" if moment is None else f", the oldest for {_age_text(now - moment)}"


def _age_text(age: timedelta) -> str:
    """Return an age in its largest unit."""
    seconds = max(0, int(age.total_seconds()))
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = seconds // length
            return counted(count, unit)
    return f"{seconds} s"
