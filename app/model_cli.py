"""``cxr model``: inference's verbs, and the one that needs training's code."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from config.context import CommandContext
from inference.cli import app as inference_app

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Model packages: make, list, verify, promote.")
app.add_typer(inference_app)


@app.command("build-untrained")
def build_untrained(
    ctx: typer.Context,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Finding of one output; repeat for more.", metavar="NAME")
    ] = None,
    softmax: Annotated[bool, typer.Option("--softmax", help="Exactly one of the classes is true.")] = False,
    architecture: Annotated[str, typer.Option(help="resnet50, or tiny for tests and tutorials.")] = "resnet50",
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Add a package with random weights to the registry; its scores mean nothing, and it says so.

    It is not put into service: cxr model promote FINGERPRINT --accept-gate trained --reason TEXT.

    Example: cxr model build-untrained --class normal --class covid19 --softmax
    """
    from inference.registry import Registry

    context: CommandContext = ctx.obj
    models_dir = context.settings().models_dir
    models_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=models_dir) as folder:
        from config.native_logs import quiet_tensorflow

        quiet_tensorflow("auto")
        with console.status("building a network with random weights"):
            from training.export import DEFAULT_CLASSES
            from training.export import build_untrained as build

            try:
                built = build(
                    Path(folder) / "package",
                    now=datetime.now(UTC),
                    seed=seed,
                    architecture=architecture,
                    classes=classes or DEFAULT_CLASSES,
                    activation="softmax" if softmax else "sigmoid",
                )
            except ValueError as error:
                raise typer.BadParameter(str(error)) from error
        package = Registry(models_dir).add(built.folder)
    if as_json:
        typer.echo(json.dumps({"fingerprint": package.fingerprint, "status": package.manifest.status.value}))
    else:
        typer.echo(f"UNTRAINED package {package.fingerprint}")
