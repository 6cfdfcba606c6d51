"""The verb ``cxr score``: files and folders in, a table or JSON out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from app.score.scorer import FileScore, Scorer
from app.send.files import find_files
from config.context import CommandContext
from config.logs import configure
from config.settings import LogSettings
from cxr.domain import PackageStatus, View
from cxr.errors import SettingsError
from cxr.product import NOTICE

if TYPE_CHECKING:
    from cxr.package import ModelPackage

app = typer.Typer(add_completion=False)

_REMARK = 18  # columns; length of the longest error code


@app.command()
def score(
    ctx: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(help="DICOM, PNG or JPEG files, and folders of them.", metavar="PATH"),
    ],
    package: Annotated[Path | None, typer.Option(help="Model package (folder); else the one in service.")] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Write the file's evidence map (or Grad-CAM) over its image here, as PNG.")
    ] = None,
    any_view: Annotated[
        bool, typer.Option("--any-view", help="Also score images that are not frontal chest images.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per file and finding.")] = False,
) -> None:
    """Score files; the header's view decides as in the service, but unknown views are scored.

    Files of a folder that are not DICOM, PNG or JPEG are skipped.

    Example: cxr score chest.dcm film.png --overlay evidence.png
    """
    context: CommandContext = ctx.obj
    settings = context.settings()
    # Faults of a file are printed in the table, which log lines would interrupt.
    configure(LogSettings(level="error"))
    files = list(files_to_score(paths))
    if not files:
        raise SettingsError("The named files and folders hold no DICOM, PNG or JPEG file.")
    if overlay is not None:
        _check_overlay(overlay, files)
    progress = track(files, description="scoring", console=Console(stderr=True), disable=len(files) < 3, transient=True)
    with Scorer(settings, package, any_view=any_view) as scorer:
        rows = [row for file in progress for row in scorer.score(file, overlay)]
        if as_json:
            for row in rows:
                typer.echo(json.dumps(asdict(row)))
        else:
            print_table(rows, scorer.package, Console())
    raise typer.Exit(1 if any(row.error_code for row in rows) else 0)


def files_to_score(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield each file once; of a folder only files with the first bytes of DICOM, PNG or JPEG."""
    for file in find_files(paths):
        if not file.is_in_folder or _is_image(file.path):
            yield file.path


def _is_image(file: Path) -> bool:
    from cxr.pixels.raster import RASTER_SIGNATURES

    try:
        with file.open("rb") as stream:
            start = stream.read(132)
    except OSError:
        return False
    return start.startswith(RASTER_SIGNATURES) or start[128:132] == b"DICM"


def _check_overlay(overlay: Path, files: Sequence[Path]) -> None:
    if len(files) != 1:
        raise SettingsError(f"--overlay takes one file; got {len(files)}.")
    if overlay.is_dir() or not os.access(overlay.parent, os.W_OK):
        raise SettingsError(f"--overlay {overlay} can't be written: it is a folder, or its folder does not exist.")


def print_table(rows: Sequence[FileScore], package: ModelPackage, console: Console) -> None:
    """Print a table with one line per file and finding, in 80 columns; long names are folded.

    Parameters
    ----------
    rows
        Results of the files.
    package
        Model package that scored them.
    console
        Output.
    """
    manifest = package.manifest
    console.print(Text(f"{manifest.name} {manifest.version}"))
    status = "" if manifest.status is PackageStatus.EVALUATED else f" - {manifest.status.value.upper()} MODEL"
    console.print(Text(NOTICE + status))
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("file", overflow="fold", ratio=3)
    for heading in ("view", "finding"):
        table.add_column(heading, no_wrap=True)
    table.add_column("score", no_wrap=True, justify="right")
    table.add_column("threshold", no_wrap=True)
    table.add_column("remark", ratio=2, min_width=_REMARK)
    for row in rows:
        shown = "" if row.score is None else f"{row.score:.4f}"
        table.add_row(*map(Text, (row.file, row.view, row.finding or "", shown, threshold_words(row), remark(row))))
    console.print(table)
    for row in rows:
        if row.error_detail is not None:
            console.print(Text(f"{row.file}: {row.error_detail}"))


def threshold_words(row: FileScore) -> str:
    """Return the threshold and whether the score reaches it, or an empty text without a threshold."""
    if row.threshold is None or row.at_or_above is None:
        return ""
    return f"{'>=' if row.at_or_above else 'below'} {row.threshold:.4f}"


def remark(row: FileScore) -> str:
    """Return the predicted class, the reason for a missing score, and the warnings."""
    parts = ["predicted class"] if row.is_predicted else []
    if row.error_code is not None:
        parts.append(row.error_code)
    elif row.score is None:
        parts.append(f"not scored: {row.reason}")
        if row.view != View.FRONTAL.value:
            parts.append("--any-view scores it")
    return ", ".join([*parts, *row.warnings])
