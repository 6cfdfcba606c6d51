"""``cxr model``: the verbs of `inference.cli`, and those that need code of `training`."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from config.context import CommandContext
from cxr.package import ModelPackage
from db.disk import make_folder
from inference.cli.candidates import app as candidate_app
from inference.cli.packages import app as inference_app

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Model packages: make, list, verify, promote.")
app.add_typer(inference_app)
app.add_typer(candidate_app)


@app.command("build-untrained")
def build_untrained(
    ctx: typer.Context,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Finding of one output; repeat for more.", metavar="NAME")
    ] = None,
    softmax: Annotated[bool, typer.Option("--softmax", help="The classes exclude each other.")] = False,
    architecture: Annotated[str, typer.Option(help="resnet50, or tiny for tests and tutorials.")] = "resnet50",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random weights.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Add a package with random weights to the registry; its scores mean nothing, and every result is marked so.

    It is not put into service; for that: cxr model promote FINGERPRINT --accept-gate trained --reason TEXT.

    Example: cxr model build-untrained --class normal --class covid19 --softmax
    """
    from inference.registry import Registry

    context: CommandContext = ctx.obj
    models_dir = context.settings().models_dir
    make_folder(models_dir)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=models_dir) as folder:
        from config.native_logs import quiet_tensorflow

        quiet_tensorflow("auto")
        with console.status("building a network with random weights"):
            from training.packaging.untrained import DEFAULT_CLASSES
            from training.packaging.untrained import build_untrained as build

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
    _print_added(package, as_json=as_json)


@app.command("import-legacy")
def import_legacy(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="HDF5 file that Keras 2 wrote.", exists=True, dir_okay=False, metavar="FILE")
    ],
    profile: Annotated[str, typer.Option(help="Source of the weights: midrc-emory.")] = "midrc-emory",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Add published weights of a predecessor to the registry, with the preprocessing of their training.

    The graph is built here; only arrays of weights are read from the file. The package is a demonstration; for
    promotion: cxr model promote FINGERPRINT --accept-gate evaluated --reason TEXT.

    Example: cxr model import-legacy resnet_covid.hdf5 --profile midrc-emory
    """
    from config.native_logs import quiet_tensorflow
    from inference.registry import Registry

    context: CommandContext = ctx.obj
    models_dir = context.settings().models_dir
    quiet_tensorflow("auto")
    with Console(stderr=True).status("reading legacy weights"):
        from training.packaging.keras2_import import PROFILES
        from training.packaging.keras2_import import import_legacy as convert

        if profile not in PROFILES:
            raise typer.BadParameter(f"profiles are {', '.join(PROFILES)}; got {profile!r}")
        make_folder(models_dir)
        with tempfile.TemporaryDirectory(prefix=".import-", dir=models_dir) as folder:
            imported = convert(file, Path(folder) / "package", now=datetime.now(UTC), profile=PROFILES[profile])
            package = Registry(models_dir).add(imported.folder)
    _print_added(package, as_json=as_json)


def _print_added(package: ModelPackage, *, as_json: bool) -> None:
    status = package.manifest.status.value
    if as_json:
        typer.echo(json.dumps({"fingerprint": package.fingerprint, "status": status}))
    else:
        typer.echo(f"{status.upper()} package {package.fingerprint}")
