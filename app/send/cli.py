"""``cxr send``: a C-STORE SCU for files and folders."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from app.send.files import InputFile, Sendable, find_files, read_all
from app.send.store import Outcome, store_files
from config.logs import configure
from config.settings import DestinationSettings, LogSettings
from cxr.counts import counted
from cxr.errors import SettingsError
from inference.delivery.association import Address

app = typer.Typer(add_completion=False)

_SHOWN_FAILURES = 20


@app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, and folders of them.", metavar="PATH", exists=True)],
    to: Annotated[str, typer.Option("--to", help="Address of the Storage SCP.", metavar="[AET@]HOST:PORT")],
    called: Annotated[str | None, typer.Option(help="Called AE title; else the one in --to, else CXR.")] = None,
    calling: Annotated[str, typer.Option(help="Calling AE title.")] = "CXRSEND",
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds that one answer may take.", min=0.1)] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as one JSON object.")] = False,
) -> None:
    """Send DICOM objects by C-STORE, each in its own SOP class and transfer syntax.

    Files of a folder that are not DICOM are skipped and counted. Exit code 1: a file was not stored, or there was none
    to send.

    Example: cxr send chest.dcm studies/ --to 127.0.0.1:11112
    """
    address = read_address(to, called=called, calling=calling, timeout_s=timeout_s)
    configure(LogSettings(level="error"))
    # Faults of associations and files are printed below as outcomes of files.
    for library in ("pydicom", "pynetdicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    console = Console(stderr=True)
    files, outcomes, skipped = read_headers(paths, console)
    sending = track(
        store_files(address, files),
        description="sending",
        total=len(files),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    summary = summarize([*outcomes, *sending], skipped=skipped)
    typer.echo(json.dumps(summary) if as_json else describe(summary))
    raise typer.Exit(0 if summary["stored"] and not summary["failed"] else 1)


def read_address(to: str, *, called: str | None, calling: str, timeout_s: float) -> Address:
    """Read ``[AET@]HOST:PORT``.

    Raises
    ------
    SettingsError
        If the address or an AE title has another form.
    """
    title, _, host_and_port = to.rpartition("@")
    try:
        destination = DestinationSettings(
            name="to", kind="dicom", address=f"{called or title or 'CXR'}@{host_and_port}", calling_ae_title=calling
        )
    except ValueError as error:
        raise SettingsError(
            "--to takes HOST:PORT or AET@HOST:PORT, for example 127.0.0.1:11112; an AE title has 1 to 16 printable "
            "ASCII characters and no backslash."
        ) from error
    ae_title, host, port = destination.dicom_address()
    return Address(ae_title=ae_title, host=host, port=port, calling_ae_title=calling.strip(), timeout_s=timeout_s)


def read_headers(paths: Sequence[Path], console: Console) -> tuple[list[Sendable], list[Outcome], int]:
    """Read the header of every file.

    Returns
    -------
    tuple
        Files to send, outcomes of files that can't be sent, number of skipped files.
    """
    files: list[Sendable] = []
    failed: list[Outcome] = []
    skipped = 0
    paths_in_order: list[InputFile] = list(find_files(paths))
    reading = track(
        read_all(paths_in_order),
        description="reading",
        total=len(paths_in_order),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    for file, result in reading:
        if isinstance(result, Sendable):
            files.append(result)
        elif result is None:
            skipped += 1
        else:
            failed.append(Outcome(path=file.path, code=result))
    return files, failed, skipped


def summarize(outcomes: Sequence[Outcome], *, skipped: int) -> dict[str, Any]:
    """Count the outcomes of all files.

    Returns
    -------
    dict
        ``files``, ``stored`` (``warned`` among them), ``failed``, ``skipped``, ``statuses`` (DIMSE
        status in hex to count) and ``failures`` (one object per file).
    """
    failures = [outcome for outcome in outcomes if outcome.code is not None]
    statuses = Counter(_hex(outcome.status) for outcome in outcomes if outcome.status is not None)
    return {
        "files": len(outcomes) + skipped,
        "stored": len(outcomes) - len(failures),
        "warned": sum(outcome.is_warned for outcome in outcomes),
        "failed": len(failures),
        "skipped": skipped,
        "statuses": dict(sorted(statuses.items())),
        "failures": [
            {
                "file": str(outcome.path),
                "error_code": outcome.code,
                "status": None if outcome.status is None else _hex(outcome.status),
            }
            | (dict(zip(("sop_class", "transfer_syntax"), outcome.refused, strict=True)) if outcome.refused else {})
            for outcome in failures
        ],
    }


def describe(summary: dict[str, Any]) -> str:
    """Return the summary as text, one line per status and failure."""
    lines = [
        f"{summary['stored']} stored ({summary['warned']} with a warning), {summary['failed']} failed, "
        f"{summary['skipped']} skipped (not DICOM)"
    ]
    lines += [f"  {status}  {count}" for status, count in summary["statuses"].items()]
    failures = summary["failures"]
    lines += [
        f"  {failure['error_code']} {failure['status'] or ''}  {failure['file']}".replace("   ", "  ")
        for failure in failures[:_SHOWN_FAILURES]
    ]
    refused = Counter(
        (failure["sop_class"], failure["transfer_syntax"]) for failure in failures if "sop_class" in failure
    )
    lines += [f"  the peer does not accept {kind} in {syntax}: {count}" for (kind, syntax), count in refused.items()]
    if len(failures) > _SHOWN_FAILURES:
        lines.append(f"  and {counted(len(failures) - _SHOWN_FAILURES, 'more failure')}: --json lists them all")
    if not summary["stored"] and not summary["failed"]:
        lines.append("  no file to send")
    return "\n".join(lines)


def _hex(status: int) -> str:
    return f"0x{status:04X}"
