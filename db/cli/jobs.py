"""``cxr jobs``: list, release, requeue and purge jobs; requeue dead deliveries."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cxr.domain import DeliveryState, JobState
from cxr.errors import SpoolFull, StorageError
from db.cli.common import AsJson, now, open_audit, open_spool, settings_of
from db.cli.output import print_json, print_message, print_table
from db.events.account import account_facts

if TYPE_CHECKING:
    from config.settings import Settings
    from db.engine import Database
    from db.schema.records import DeliveryRow, JobRow

jobs_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="List, release, requeue and purge jobs and deliveries."
)

Ids = Annotated[list[int] | None, typer.Argument(help="Numbers as `cxr jobs list` shows them.", metavar="ID")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
Change = Callable[..., None]

_JOB = ("id", "received_at", "state", "attempts", "error_code", "not_before", "updated_at", "reason")
_DELIVERY = ("id", "job_id", "destination", "state", "attempts", "due_at", "updated_at", "status", "error_code")
_LEAVE_OUT = ("updated_at", "not_before", "due_at", "attempts")
_PAGE: Final = 500  # rows of one read: without a write-ahead log, a read delays the listener's commits


@jobs_app.command("list")
def list_(
    ctx: typer.Context,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    dead_deliveries: Annotated[
        bool, typer.Option("--dead-deliveries", help="Dead deliveries instead of jobs.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="Maximum number of rows; 0: all.")] = 50,
    wide: Annotated[bool, typer.Option("--wide", help="All columns, however narrow the terminal.")] = False,
    as_json: AsJson = False,
) -> None:
    """List jobs, the latest first.

    Example: cxr jobs list --state held
    """
    from db import deliveries
    from db.jobs import operator_actions

    settings = settings_of(ctx)
    list_rows = (
        partial(deliveries.list_deliveries, state=DeliveryState.DEAD)
        if dead_deliveries
        else partial(operator_actions.list_jobs, state=state)
    )
    with open_audit(settings) as database:
        if as_json:
            for row in _read_all(database, list_rows, limit=limit or None):
                print_json(asdict(row))
            _print_disk_error(settings)
            return
        rows = [asdict(row) for row in _read_all(database, list_rows, limit=limit or None)]
        with database.read() as session:
            counts = {str(each): count for each, count in operator_actions.count_by_state(session).items()}
    _print_disk_error(settings)
    names = _DELIVERY if dead_deliveries else _JOB
    print_table(names, [[row[name] for name in names] for row in rows], leave_out=_LEAVE_OUT, is_wide=wide)
    print_message("In all: " + ", ".join(f"{count} {name}" for name, count in counts.items() if count) + ".")


def _print_disk_error(settings: Settings) -> None:
    """Print the disk's error, if it is the reason why jobs wait."""
    try:
        open_spool(settings).check_writable()
    except SpoolFull as error:
        print_message(f"{error} Until then new images are answered with 0xA700, and received images wait.")
    except OSError:  # this account may not write to the spool: unknown
        return


@jobs_app.command()
def release(ctx: typer.Context, ids: Ids = None, release_all: All = False) -> None:
    """Queue held images for scoring.

    Example: cxr jobs release 12 13
    """
    from db.jobs.operator_actions import list_jobs
    from db.jobs.operator_actions import release as release_job

    with open_audit(settings_of(ctx)) as database:
        held = _read_all(database, partial(list_jobs, state=JobState.HELD))
        _change(database, _numbers(ids, held, is_all=release_all), release_job, "released")


@jobs_app.command()
def requeue(
    ctx: typer.Context,
    ids: Ids = None,
    dead_deliveries: Annotated[
        bool, typer.Option("--dead-deliveries", help="Dead deliveries, all or those with these numbers.")
    ] = False,
    requeue_all: Annotated[bool, typer.Option("--all", help="All failed jobs.")] = False,
) -> None:
    """Queue failed jobs, or dead deliveries, again with no attempts.

    Example: cxr jobs requeue --dead-deliveries
    """
    from db import deliveries
    from db.jobs import operator_actions

    with open_audit(settings_of(ctx)) as database:
        if dead_deliveries:
            dead = _read_all(database, partial(deliveries.list_deliveries, state=DeliveryState.DEAD))
            _change(database, _numbers(ids, dead, is_all=not ids), deliveries.requeue, "requeued")
            return
        failed = _read_all(database, partial(operator_actions.list_jobs, state=JobState.FAILED))
        _change(database, _numbers(ids, failed, is_all=requeue_all), operator_actions.requeue, "requeued")


@jobs_app.command()
def purge(
    ctx: typer.Context,
    state: Annotated[list[JobState], typer.Option(help="failed or held; repeatable.")],
    older_than: Annotated[float, typer.Option(min=0, metavar="DAYS", help="Minimum days in that state.")],
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
) -> None:
    """Remove the pixels of failed or held images permanently; the audit rows stay.

    Example: cxr jobs purge --state failed --older-than 30
    """
    from db.upkeep import retention

    if not set(state) <= {JobState.FAILED, JobState.HELD}:
        raise typer.BadParameter("failed and held images can be purged, no others", param_hint="--state")
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter(
            "standard input is no terminal, so there is no confirmation: add --yes", param_hint="--yes"
        )
    if not yes:
        typer.confirm("Remove these pixels permanently?", abort=True)
    settings = settings_of(ctx)
    with open_audit(settings) as database:
        count = retention.purge(
            database,
            open_spool(settings),
            states=state,
            older_than=timedelta(days=older_than),
            now=now(),
            by=account_facts(),
        )
    typer.echo(f"{count} purged")


def _read_all(
    database: Database, list_rows: Callable[..., list[JobRow] | list[DeliveryRow]], *, limit: int | None = None
) -> Iterator[JobRow | DeliveryRow]:
    """Yield the rows of a listing, the latest first, in short reads; a row may change its state meanwhile."""
    before_id, left = None, limit
    while left is None or left > 0:
        size = _PAGE if left is None else min(_PAGE, left)
        with database.read() as session:
            rows = list_rows(session, limit=size, before_id=before_id)
        yield from rows
        if len(rows) < size:
            return
        before_id = rows[-1].id
        left = None if left is None else left - size


def _numbers(ids: list[int] | None, rows: Iterator[JobRow | DeliveryRow], *, is_all: bool) -> Iterable[int]:
    if is_all:
        return (row.id for row in rows)
    if not ids:
        raise typer.BadParameter("name jobs by their numbers, or say --all")
    return ids


def _change(database: Database, ids: Iterable[int], change: Change, done: str) -> None:
    """Apply a change to each row; print refusals and continue with the others."""
    changed, refused = 0, 0
    for each in ids:
        try:
            with database.begin() as session:
                change(session, each, now(), by=account_facts())
            changed += 1
        except StorageError as error:
            refused += 1
            print_message(str(error))
    typer.echo(f"{changed} {done}")
    if refused:
        raise typer.Exit(1)
