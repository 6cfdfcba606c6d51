"""``cxr train quantise`` and ``ship``: from finished runs to the shipped models."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def quantise(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.", metavar="RUN")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new run's folder.", metavar="RUN8")],
    cache_folder: Annotated[
        Path | None, typer.Option("--cache", help="Prepared images. Default: in the run.", metavar="FOLDER")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that prepare images. Default: one for each core.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Round a run's large kernels to 8 bits, calibrate and predict again: a new run of a quarter of the size.

    Example: cxr train quantise runs/finetune -o runs/finetune8
    """
    from config.native_logs import quiet_tensorflow

    quiet_tensorflow("auto")
    from training.cli.progress import show_progress
    from training.runs.train import Options
    from training.shipped.quantise import quantise_run

    with show_progress() as progress:
        options = Options(cache=cache_folder, processes=processes, progress=progress)
        quantised = quantise_run(run, output, now=datetime.now(UTC), options=options)
    if as_json:
        typer.echo(json.dumps({"run": str(quantised.folder), "fingerprint": quantised.fingerprint()}))
    else:
        typer.echo(f"{quantised.folder} is done; next: cxr train package {quantised.folder}")


def ship(
    packages: Annotated[
        list[str],
        typer.Argument(help="A name (covid19, four-class) and a package's folder.", metavar="NAME=PACKAGE"),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the shipped models.", metavar="FOLDER")],
    as_json: Json = False,
) -> None:
    """Write packages in the compact form of the shipped models, and check that they expand byte for byte.

    Example: cxr train ship covid19=var/models/3f2a91c0 -o models
    """
    from training.shipped.pack import ship as write

    folders = {}
    for text in packages:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder:
            raise typer.BadParameter("accepted is NAME=PACKAGE, e.g. covid19=runs/finetune/package")
        folders[name] = Path(folder)
    fingerprints = write(folders, output)
    if as_json:
        typer.echo(json.dumps(fingerprints))
        return
    for name, fingerprint in fingerprints.items():
        typer.echo(f"{name}: {fingerprint}")
