"""``cxr model gates`` and ``cxr model shadow``: evaluate a package before it is promoted."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.context import CommandContext
from cxr.printable import printable
from cxr.product import NOTICE
from inference.cli.packages import Json, Package, find_package, open_registry

if TYPE_CHECKING:
    from db.engine import Database
    from db.jobs.shadow_scores import ShadowPackage

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def gates(ctx: typer.Context, package: Package, as_json: Json = False) -> None:
    """Check a package against the promotion gates without promoting it; exit code 1 if one fails.

    Example: cxr model gates runs/finetune/package
    """
    registry = open_registry(ctx, with_gates=True)
    results = registry.check_gates(find_package(registry, package))
    if as_json:
        for gate in results:
            facts = {"gate": gate.name, "is_passed": gate.is_passed, "is_acceptable": gate.is_acceptable}
            typer.echo(json.dumps({**facts, "figure": gate.figure, "bar": gate.requirement}))
    else:
        table = Table("gate", "", "figure", "requirement", title=NOTICE)
        for gate in results:
            # Text, because figures of a package are not markup.
            state = "passed" if gate.is_passed else "FAILED"
            table.add_row(*(Text(printable(cell)) for cell in (gate.name, state, gate.figure, gate.requirement)))
        Console().print(table)
    raise typer.Exit(0 if all(gate.is_passed for gate in results) else 1)


@app.command()
def shadow(
    ctx: typer.Context,
    package: Annotated[
        str | None,
        typer.Argument(
            help="Fingerprint (or its first characters), or a folder; none: show the shadow.", metavar="PACKAGE"
        ),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Remove the shadow.")] = False,
    reason: Annotated[
        str | None, typer.Option(help="Reason, for the audit database; no patient data.", metavar="TEXT")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set a shadow: a package that scores beside the one in service; its scores are stored apart and never reported.

    A running worker loads it between two batches. The package must be loadable; the gates on its figures do not apply.

    Example: cxr model shadow runs/finetune/package --reason "two weeks beside 3f2a91c0"
    """
    from db.engine import open_database
    from inference.registry import activation

    if package is not None and off:
        raise typer.BadParameter("give a package, or --off", param_hint="--off")
    if (package is not None or off) and not reason:
        raise typer.BadParameter("give a reason: it is stored in the audit database", param_hint="--reason")
    context: CommandContext = ctx.obj
    settings = context.settings()
    database = open_database(
        settings.database_path, settings.audit_key_path, create=False, traces=settings.database_traces
    )
    try:
        if reason and off:
            activation.end_shadow(database, now=datetime.now(UTC), actor=activation.account_name(), reason=reason)
        elif reason and package is not None:
            _set_shadow(ctx, database, package, reason)
        _print_shadow(_read_shadow(database), as_json=as_json)
    finally:
        database.dispose()


def _set_shadow(ctx: typer.Context, database: Database, package: str, reason: str) -> None:
    from inference.registry import activation
    from inference.worker.trial_load import TrialLoad

    context: CommandContext = ctx.obj
    registry = open_registry(ctx)
    fingerprint = registry.add(find_package(registry, package).folder).fingerprint
    activation.set_shadow(
        registry,
        database,
        fingerprint,
        now=datetime.now(UTC),
        actor=activation.account_name(),
        reason=reason,
        trial=TrialLoad(context.settings().worker.runtime),
    )


def _read_shadow(database: Database) -> ShadowPackage | None:
    from db.jobs import shadow_scores

    with database.read() as session:
        return shadow_scores.current(session)


def _print_shadow(shadow: ShadowPackage | None, *, as_json: bool) -> None:
    if as_json:
        typer.echo(
            json.dumps(
                {"fingerprint": shadow and shadow.fingerprint, "name": shadow and shadow.name,
                 "version": shadow and shadow.version, "status": shadow and shadow.status.value}
            )
        )  # fmt: skip
    elif shadow is None:
        typer.echo("There is no shadow.")
    else:
        name = printable(f"{shadow.name} {shadow.version}")
        typer.echo(f"Shadow: {name}, {shadow.fingerprint[:12]}; its scores are not reported.")
