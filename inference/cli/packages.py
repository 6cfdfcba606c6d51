"""``cxr model``: the packages of the registry and the package in service."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.context import CommandContext
from cxr.counts import counted
from cxr.domain import PackageStatus
from cxr.errors import CxrError
from cxr.printable import printable
from cxr.product import NOTICE

if TYPE_CHECKING:
    from cxr.package import ModelPackage
    from inference.registry import Entry, Registry

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Model packages: list, show, verify, promote, roll back, export."
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Package = Annotated[
    str,
    typer.Argument(
        help="Fingerprint (or its first characters), `current`, or the folder of a package.", metavar="PACKAGE"
    ),
]
Reason = Annotated[str, typer.Option(help="Reason, for the audit database; no patient data.", metavar="TEXT")]


@app.command("list")
def list_packages(ctx: typer.Context, as_json: Json = False) -> None:
    """List the packages of the registry; the one in service comes first.

    Example: cxr model list --json
    """
    registry = open_registry(ctx)
    entries = registry.list()
    if as_json:
        for entry in entries:
            typer.echo(json.dumps(_summary(entry)))
        return
    if not entries:
        typer.echo(_empty(registry))
        return
    # Two lines a package, so that whole words fit a terminal of 80 columns.
    table = Table(title=NOTICE, title_justify="left", box=None, pad_edge=False)
    for heading in ("fingerprint", "name, version", "status, made", "findings"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        facts = _summary(entry)
        cells = (
            (entry.fingerprint[:12], "in service" if entry.is_active else ""),
            (facts["name"] or "?", facts["version"] or "?"),
            (facts["fault"] or facts["status"].upper(), (facts["created"] or "")[:10]),
            facts["findings"],
        )
        # Text, because a name is not markup.
        table.add_row(*(Text("\n".join(map(printable, lines)).rstrip("\n")) for lines in cells))
    Console().print(table)


@app.command()
def show(ctx: typer.Context, package: Package = "current", as_json: Json = False) -> None:
    """Verify one package and show its model card, rendered for the terminal; with --json its manifest.

    Example: cxr model show current
    """
    from inference.cli.card import print_card

    loaded = find_package(open_registry(ctx), package)
    if as_json:
        typer.echo(json.dumps({"fingerprint": loaded.fingerprint, **loaded.manifest.model_dump(mode="json")}))
        return
    print_card(loaded, Console())


@app.command()
def verify(
    ctx: typer.Context,
    packages: Annotated[
        list[str] | None,
        typer.Argument(help="Fingerprints or folders; none: all of the registry.", metavar="PACKAGE"),
    ] = None,
) -> None:
    """Check every file of packages against its digest; exit code 1 if one is not as it was exported.

    Example: cxr model verify
    """
    registry = open_registry(ctx)
    names = packages or [entry.fingerprint for entry in registry.list()]
    if not names:
        typer.echo(_empty(registry))
    faulty = 0
    for name in names:
        try:
            package = find_package(registry, name)
        except CxrError as error:
            faulty += 1
            label = name if packages else name[:12]
            typer.echo(printable(f"{label}  {error.code}: {error}"))
            continue
        manifest = package.manifest
        facts = f"{manifest.name} {manifest.version}, {counted(len(manifest.files), 'file')}"
        typer.echo(printable(f"{package.fingerprint[:12]}  intact: {facts}"))
    if names:
        typer.echo(f"Checked {counted(len(names), 'package')}: {len(names) - faulty} intact, {faulty} with faults.")
    raise typer.Exit(1 if faulty else 0)


@app.command()
def promote(
    ctx: typer.Context,
    package: Package,
    reason: Reason,
    accept_gate: Annotated[
        list[str] | None,
        typer.Option(
            help="Promote although this gate fails, for the reason in --reason; may be repeated.", metavar="NAME"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Put a package into service; a running worker loads it between two batches.

    A folder is copied into the registry first. A package that fails a gate is refused, with the gate's name and figure.
    With --accept-gate it goes into service as a DEMONSTRATION MODEL: a copy with a fingerprint of its own, whose
    results are all marked so.

    Example: cxr model promote 3f2a91c0 --reason "new fine-tune on 2025 data"
    """
    from db.engine import open_database
    from inference.registry import activation
    from inference.worker.trial_load import TrialLoad

    context: CommandContext = ctx.obj
    settings = context.settings()
    registry = open_registry(ctx, with_gates=True)
    source = find_package(registry, package)
    fingerprint = registry.add(source.folder).fingerprint
    database = open_database(
        settings.database_path, settings.audit_key_path, create=True, traces=settings.database_traces
    )
    try:
        promoted = activation.promote(
            registry,
            database,
            fingerprint,
            now=datetime.now(UTC),
            actor=activation.account_name(),
            reason=reason,
            accept=dict.fromkeys(accept_gate or (), reason),
            trial=TrialLoad(settings.worker.runtime),
        )
    finally:
        database.dispose()
    _print_in_service(promoted, as_json=as_json)


@app.command()
def rollback(ctx: typer.Context, reason: Reason, as_json: Json = False) -> None:
    """Return to the package that the latest promotion replaced; repeat the command to go further back.

    Example: cxr model rollback --reason "scores drifted"
    """
    from db.engine import open_database
    from inference.registry import activation
    from inference.worker.trial_load import TrialLoad

    context: CommandContext = ctx.obj
    settings = context.settings()
    database = open_database(
        settings.database_path, settings.audit_key_path, create=False, traces=settings.database_traces
    )
    try:
        package = activation.rollback(
            open_registry(ctx),
            database,
            now=datetime.now(UTC),
            actor=activation.account_name(),
            reason=reason,
            trial=TrialLoad(settings.worker.runtime),
        )
    finally:
        database.dispose()
    _print_in_service(package, as_json=as_json)


@app.command()
def export(
    ctx: typer.Context,
    package: Package,
    to: Annotated[Path, typer.Option("--to", help="Folder to create.", metavar="FOLDER")],
    form: Annotated[str, typer.Option("--format", help="onnx, saved_model or openvino.")] = "onnx",
    as_json: Json = False,
) -> None:
    """Export a package's graph for another program and check that it reproduces the scores there.

    Example: cxr model export current --format onnx --to exported
    """
    from config.native_logs import quiet_tensorflow

    quiet_tensorflow("cpu")
    with Console(stderr=True).status("exporting"):
        from inference.model.export import FORMATS, export_package

        if form not in FORMATS:
            raise typer.BadParameter(f"formats are {', '.join(FORMATS)}; got {form!r}")
        loaded = find_package(open_registry(ctx), package)
        difference = export_package(loaded, to, form)
    if as_json:
        typer.echo(json.dumps({"fingerprint": loaded.fingerprint, "format": form, "largest_difference": difference}))
        return
    typer.echo(f"Exported {loaded.fingerprint[:12]} as {form}; scores agree to {difference:.1g}. {NOTICE}")


def open_registry(ctx: typer.Context, *, with_gates: bool = False) -> Registry:
    """Open the registry; ``with_gates`` also sets up the promotion gates."""
    from inference.registry import Registry

    context: CommandContext = ctx.obj
    settings = context.settings()
    if not with_gates:
        return Registry(settings.models_dir)
    from inference.registry import Gates
    from inference.registry.golden_check import golden_difference

    return Registry(settings.models_dir, gates=Gates(settings.gates, golden_difference))


def find_package(registry: Registry, package: str) -> ModelPackage:
    """Load and verify a package, by its folder or by the first characters of its fingerprint."""
    from cxr.package import load_package

    if Path(package).is_dir():
        return load_package(Path(package))
    return registry.load(registry.resolve(package))


def _empty(registry: Registry) -> str:
    return (
        f"{registry.folder} holds no model packages: `cxr serve` installs the default model at its first start, "
        "`cxr model promote FOLDER` adds one."
    )


def _summary(entry: Entry) -> dict[str, Any]:
    manifest = entry.manifest
    return {
        "fingerprint": entry.fingerprint,
        "is_active": entry.is_active,
        "name": manifest.name if manifest else None,
        "version": manifest.version if manifest else None,
        "status": manifest.status.value if manifest else None,
        "findings": list(manifest.findings) if manifest else [],
        "created": manifest.provenance.created.isoformat() if manifest else None,
        "fault": entry.fault,
    }


def _print_in_service(package: ModelPackage, *, as_json: bool) -> None:
    manifest = package.manifest
    if as_json:
        typer.echo(json.dumps({"fingerprint": package.fingerprint, "status": manifest.status.value}))
        return
    warning = "" if manifest.status is PackageStatus.EVALUATED else f" ({manifest.status.value.upper()} MODEL)"
    typer.echo(f"In service: {manifest.name} {manifest.version}{warning}, {package.fingerprint[:12]}")
