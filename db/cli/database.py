"""``cxr db``: upgrade, check and back up the audit database."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cxr.counts import counted
from cxr.errors import DamagedDatabase
from db.cli.common import AsJson, now, open_audit, open_spool, settings_of
from db.cli.output import print_json, progress_bar

db_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Upgrade, check and back up the audit database.")


@db_app.command()
def upgrade(ctx: typer.Context) -> None:
    """Migrate the database to the schema of this version; stop the service and make a backup first.

    Example: cxr db upgrade
    """
    from db import engine

    settings = settings_of(ctx)
    before, after = engine.upgrade(settings.database_path, settings.audit_key_path, now=now())
    typer.echo(f"schema {after}, as before" if before == after else f"schema {before} is now {after}")


@db_app.command()
def check(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check file, references, schema, events, spool and permissions, also while the service runs.

    The exit code is 1 if a fault is found.

    Example: cxr db check
    """
    from config.checks import mode_faults
    from db.sqlite.connection import describe
    from db.upkeep import integrity
    from db.upkeep.exported_heads import read_heads

    settings = settings_of(ctx)
    heads = read_heads(settings.audit_heads_path)
    try:
        with open_audit(settings) as database, progress_bar("Copying") as advance:
            report = integrity.check(database, open_spool(settings), heads=heads, progress=advance)
    except DamagedDatabase:
        report = integrity.check_damaged(settings.database_path)
        if report.ok:
            raise
    faults = (*report.faults, *integrity.open_to_others(mode_faults(settings)))
    for fault in faults:
        if as_json:
            print_json(asdict(fault))
        else:
            typer.echo(f"{fault.code}: {fault.message}")
    if not as_json:
        typer.echo(describe(settings.database_path))
        found, events = counted(len(faults), "fault"), counted(report.events, "event")
        typer.echo(f"{found}; {events} and {counted(report.files, 'file')} are intact")
    raise typer.Exit(1 if faults else 0)


@db_app.command()
def backup(
    ctx: typer.Context,
    to: Annotated[
        Path | None, typer.Option(help="Folder. Default: backup/ in the data folder. No older backup is removed.")
    ] = None,
) -> None:
    """Back up the database while the service runs, and check the copy.

    Example: cxr db backup --to /mnt/backup
    """
    from db.upkeep.backup import backup as make_backup

    settings = settings_of(ctx)
    with open_audit(settings) as database, progress_bar("Copying") as advance:
        report = make_backup(database, to or settings.backup_dir, keep=None, now=now(), progress=advance)
    typer.echo(report.path)
