"""``cxr audit``: results, timelines, exports, tamper check, snapshot."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer

from cxr.counts import counted
from cxr.errors import StorageError
from db.cli.common import AsJson, open_audit, settings_of
from db.cli.output import print_json, print_line, print_message, print_record, print_table, progress_bar
from db.cli.result_options import with_selection
from db.results.filters import Format, IdentifierForm, ResultFilter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from config.settings import Settings
    from db.engine import Database
    from db.results.queries import Timeline
    from db.schema.records import ResultRow

_TIME_LIMIT_S = 20.0
_MOST_COLUMNS = 6  # of a table in `cxr audit show`

audit_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Results, timelines, exports, tamper check.")

_TABLE = ("image", "received", "state", "finding", "score", "threshold", "view", "delivered", "error_code",
          "sender", "model", "reason")  # fmt: skip
_LEAVE_OUT = ("model", "sender", "delivered", "view", "error_code")
_NEWEST = 500  # rows read by --follow each second
_FOLLOW_S = 1.0


@audit_app.command("list")
@with_selection
def list_(
    ctx: typer.Context,
    which: ResultFilter,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Rows at most; 0: all. Default: 50 in a table, all with --json.")
    ] = None,
    before: Annotated[
        int | None, typer.Option(min=1, help="Images with a smaller number: the next page of a list.", metavar="IMAGE")
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(min=0, help="Time limit in seconds. Default: 20 in a table, none with --json."),
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="All columns, however narrow the terminal.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print one line for each new result, until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List results, the latest first: one row per image and finding.

    Example: cxr audit list --finding covid19 --min-score 0.5 --since 2026-01-01 --json
    """
    from db.results.export import as_record, columns
    from db.results.queries import page_results

    rows_at_most = limit if limit is not None else (0 if as_json else 50)
    settings = settings_of(ctx)
    page = dataclasses.replace(_with_routes(which, settings), limit=rows_at_most or None, before_image=before)
    with open_audit(settings) as database:
        if follow:
            _follow(database, page, as_json=as_json)
        results = page_results(database, page, within_s=_TIME_LIMIT_S if within is None and not as_json else within)
    if as_json:
        names = [name for name in columns(IdentifierForm.FULL) if name != "patient_id"]
        for row in results.rows:
            print_json(as_record(row, names))
    else:
        print_table(_TABLE, map(_row, results.rows), leave_out=_LEAVE_OUT, is_wide=wide)
    if results.is_cut:
        print_message(
            f"Time limit reached; images before {results.before_image} were not searched: "
            f"--before {results.before_image}."
        )
    elif results.before_image is not None and not as_json:
        print_message(
            f"{counted(len(results.rows), 'row')}, and there are more: --before {results.before_image}, or --limit."
        )


def _with_routes(which: ResultFilter, settings: Settings) -> ResultFilter:
    """Add the senders that no destination is bound to; their results stay undelivered."""
    from config.advice import unbound_destinations

    titles = tuple(destination.dicom_address()[0] for destination in unbound_destinations(settings))
    return dataclasses.replace(which, unrouted_senders=titles) if which.delivered is False else which


def _row(row: ResultRow) -> tuple[object, ...]:
    """Return the cells of `_TABLE`."""
    side = None if row.at_or_above is None else f"{'>=' if row.at_or_above else 'below'} {row.threshold:.3f}"
    return (
        *(row.image_id, row.received_at, row.state, row.finding, row.score, side, row.view, row.delivered),
        *(row.error_code, row.peer_ae_title, row.model, row.reason),
    )


def _follow(database: Database, which: ResultFilter, *, as_json: bool) -> NoReturn:
    """Print new and changed results, the earliest first, until interrupted."""
    from db.results.export import as_record, columns
    from db.results.queries import page_results

    names = [name for name in columns(IdentifierForm.FULL) if name != "patient_id"]
    printed: set[tuple[object, ...]] = set()
    newest = dataclasses.replace(which, limit=_NEWEST, before_image=None)
    while True:
        rows = page_results(database, newest, within_s=None).rows
        current = {(row.image_id, row.finding, row.state, row.delivered): row for row in reversed(rows)}
        for row in (row for key, row in current.items() if key not in printed):
            if as_json:
                print_json(as_record(row, names))
            else:
                print_line(value for value in _row(row) if value is not None)
        sys.stdout.flush()
        printed = set(current)
        time.sleep(_FOLLOW_S)


@audit_app.command()
def show(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(help="Number or SOP Instance UID of the image.", metavar="IMAGE")],
    as_json: AsJson = False,
) -> None:
    """Show everything stored of one image, and its events.

    Example: cxr audit show 12
    """
    from db.results import queries

    key = int(image) if image.isdigit() else image
    with open_audit(settings_of(ctx)) as database, database.read() as session:
        timelines = queries.show(session, key)
    for timeline in timelines:
        if as_json:
            print_json(timeline)
        else:
            _print_timeline(timeline)


@audit_app.command()
@with_selection
def export(
    ctx: typer.Context,
    which: ResultFilter,
    form: Annotated[Format, typer.Option("--format", help="Format.")] = Format.CSV,
    out: Annotated[Path | None, typer.Option("--out", help="File to write. Default: standard output.")] = None,
    identifiers: Annotated[
        IdentifierForm,
        typer.Option(help="UIDs, patient ID, accession number: keyed pseudonyms, none, the UIDs alone, or all."),
    ] = IdentifierForm.PSEUDONYM,
    identified: Annotated[bool, typer.Option("--identified", help="Short for --identifiers full.")] = False,
) -> None:
    """Export results, the earliest first; identifiers are pseudonyms by default.

    Example: cxr audit export --format parquet --out results.parquet --since 2026-01-01
    """
    from db.identifiers import load_identifiers
    from db.results.export import write_csv, write_json, write_parquet
    from db.results.masking import mask_identifiers
    from db.results.queries import iterate_results

    if form is Format.PARQUET and out is None:
        raise typer.BadParameter("Parquet needs a file: name one", param_hint="--out")
    identifiers = IdentifierForm.FULL if identified else identifiers
    settings = settings_of(ctx)
    which = _with_routes(which, settings)
    with open_audit(settings) as database, progress_bar("Exporting") as advance:
        keyed = load_identifiers(
            "pseudonym", settings.pseudonym_key_path, create=identifiers is IdentifierForm.PSEUDONYM
        )
        stored = iterate_results(database, which, progress=advance)
        rows = mask_identifiers(database, stored, identifiers, keyed)
        if form is Format.PARQUET and out is not None:
            with _draft(out) as draft:
                count = write_parquet(rows, draft, form=identifiers)
        else:
            write = write_csv if form is Format.CSV else write_json
            with _stream(out) as stream:
                count = write(rows, stream, form=identifiers)
    if out is not None:
        print_message(f"{count} rows written.")


@audit_app.command()
def verify(
    ctx: typer.Context,
    heads: Annotated[
        Path | None,
        typer.Option(help="File of exported heads. Default: beside the key. A copy on another machine proves more."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All events and rows. Default: the newest 100,000 events and their rows.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that no event was changed or removed, and no row changed without an event; exit code 1 if so.

    Example: cxr audit verify --all --heads /mnt/other-machine/audit.heads
    """
    from db.upkeep import integrity
    from db.upkeep.exported_heads import read_heads
    from db.upkeep.replay import MOST_DIFFERENCES

    settings = settings_of(ctx)
    if heads is not None and not heads.is_file():
        raise typer.BadParameter("there is no such file", param_hint="--heads")
    exported = read_heads(heads or settings.audit_heads_path)
    with open_audit(settings) as database, progress_bar("Copying") as advance:
        chain = integrity.verify(database, heads=exported, everything=everything, progress=advance)
    if as_json:
        print_json(chain)
    elif chain.ok:
        which = counted(chain.events, "event") if chain.first == 1 else f"Events {chain.first} to {chain.events}"
        rest = "" if chain.first == 1 else " Older ones: --all."
        typer.echo(
            f"{which}, all as they were written, and so are the rows that they name; "
            f"{counted(len(exported), 'matching exported head')}.{rest}"
        )
    elif chain.changed:
        more = " or more" if len(chain.changed) >= MOST_DIFFERENCES else ""
        typer.echo(
            f"Rows changed or deleted: {len(chain.changed):,}{more}, first {', '.join(chain.changed[:5])}. "
            "Find out who changed them; restore a backup."
        )
    else:
        typer.echo(
            f"Event {chain.first_broken_id} was changed or deleted; the {chain.events} events before it are intact."
        )
    raise typer.Exit(0 if chain.ok else 1)


@audit_app.command()
def snapshot(
    ctx: typer.Context,
    to: Annotated[
        Path | None, typer.Option(help="File to write. Default: audit-read.sqlite in the data folder.")
    ] = None,
) -> None:
    """Refresh the snapshot for readers (sqlite3, notebooks); the service does so every minute.

    Example: cxr audit snapshot && sqlite3 var/audit-read.sqlite "SELECT count(*) FROM images"
    """
    from db.upkeep.snapshot import refresh_snapshot

    settings = settings_of(ctx)
    with open_audit(settings) as database, progress_bar("Copying") as advance:
        refresh_snapshot(database, to or settings.snapshot_path, always=True, progress=advance)
    typer.echo(to or settings.snapshot_path)


def _print_timeline(timeline: Timeline) -> None:
    image = timeline.image
    facts = {**image, **{f"decision {name}": timeline.decision[name] for name in ("view", "reason", "evidence")}}
    facts |= {name: timeline.job[name] for name in ("attempts", "error_code", "device", "warnings", "scored_at")}
    print_record(facts, title=f"Image {image['image_id']}")
    for name in ("scores", "shadow_scores", "reports", "deliveries"):
        _print_rows(name.replace("_", " "), getattr(timeline, name))
    _print_rows(
        "events", [{name: row[name] for name in ("event_id", "at", "kind", "facts")} for row in timeline.events]
    )


def _print_rows(title: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Print rows as a table, or as records if they have many columns."""
    listed = list(rows)
    if listed and len(listed[0]) <= _MOST_COLUMNS:
        print_table(list(listed[0]), [list(row.values()) for row in listed], title=f"\n{title}")
        return
    for number, row in enumerate(listed, start=1):
        print_record(row, title=f"\n{title} {number} of {len(listed)}")


@contextmanager
def _draft(out: Path) -> Iterator[Path]:
    """Write a draft that replaces the file only when the export is complete."""
    from db.disk import whole_file

    try:
        with whole_file(out, draft_suffix="part") as draft:
            yield draft
    except OSError as error:
        raise StorageError(
            f"The export can't be written ({error.strerror}): check --out and the space there."
        ) from error


@contextmanager
def _stream(out: Path | None) -> Iterator[TextIO]:
    if out is None:
        yield sys.stdout
        return
    with _draft(out) as draft, draft.open("w", encoding="utf-8", newline="") as stream:
        yield stream
