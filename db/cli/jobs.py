"""``cxr jobs``: list, release, requeue and purge jobs; requeue dead deliveries."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from cxr.domain import DeliveryState, JobState
from cxr.errors import SpoolFull, StorageError
from db.cli.common import AsJson, now, open_audit, open_spool, settings_of
from db.cli.output import print_json, print_message, print_table
from db.events.account import account_facts

if TYPE_CHECKING:
    from config.settings import Settings
    from db.engine import Database

jobs_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="List, release, requeue and purge jobs and deliveries."
)

Ids = Annotated[list[int] | None, typer.Argument(help="Numbers as `cxr jobs list` shows them.", metavar="ID")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
Change = Callable[..., None]

_JOB = ("id", "received_at", "state", "attempts", "error_code", "not_before", "updated_at", "reason")
_DELIVERY = ("id", "job_id", "destination", "state", "attempts", "due_at", "updated_at", "status", "error_code")
_LEAVE_OUT = ("updated_at", "not_before", "due_at", "attempts")


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
    with open_audit(settings) as database, database.read() as session:
        counts = {str(each): count for each, count in operator_actions.count_by_state(session).items()}
        at_most = limit or None
        rows = [
            asdict(row)
            for row in (
                deliveries.list_deliveries(session, state=DeliveryState.DEAD, limit=at_most)
                if dead_deliveries
                else operator_actions.list_jobs(session, state=state, limit=at_most)
            )
        ]
    _print_disk_error(settings)
    if as_json:
        for row in rows:
            print_json(row)
        return
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
        if release_all:
            with database.read() as session:
                ids = [row.id for row in list_jobs(session, state=JobState.HELD)]
        _change(database, _require_ids(ids, is_all=release_all), release_job, "released")


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
            if not ids:
                with database.read() as session:
                    ids = [row.id for row in deliveries.list_deliveries(session, state=DeliveryState.DEAD)]
            _change(database, ids, deliveries.requeue, "requeued")
            return
        if requeue_all:
            with database.read() as session:
                ids = [row.id for row in operator_actions.list_jobs(session, state=JobState.FAILED)]
        _change(database, _require_ids(ids, is_all=requeue_all), operator_actions.requeue, "requeued")


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


def _require_ids(ids: list[int] | None, *, is_all: bool) -> list[int]:
    if not ids and not is_all:
        raise typer.BadParameter("name jobs by their numbers, or say --all")
    return ids or []


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
