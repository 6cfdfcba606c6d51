"""Output of commands: tables for people, JSON lines for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cxr.printable import printable

_WIDE = 200  # minimum width of a table in a file or pipe
_GAP = 2  # columns between two columns of a table


def print_json(record: object) -> None:
    """Print one object on one line; times as ISO 8601 in UTC."""
    text = json.dumps(record, default=_as_json, ensure_ascii=False)
    sys.stdout.write(printable(text) + "\n")  # 8-bit control characters, which JSON doesn't escape


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    leave_out: Sequence[str] = (),
    is_wide: bool = False,
) -> None:
    """Print a table that fits the terminal; times are local, absent values are empty cells.

    Parameters
    ----------
    columns
        Headings.
    rows
        Cells, in the order of the headings.
    title
        Printed above.
    leave_out
        Columns to omit on a narrow terminal, in this order.
    is_wide
        Print all columns, as in a pipe or file.
    """
    console = Console()
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    every_width = sum(widths) + _GAP * (len(widths) - 1)
    omitted: list[str] = []
    if is_wide or not console.is_terminal:
        console = Console(width=max(every_width, _WIDE))
    else:
        omitted = _omitted(dict(zip(columns, widths, strict=True)), leave_out, console.width)
    shown = [number for number, name in enumerate(columns) if name not in omitted]
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for number in shown:
        table.add_column(Text(columns[number]), overflow="fold", no_wrap=number != shown[-1])
    for row in cells:
        table.add_row(*(Text(row[number]) for number in shown))
    console.print(table)
    if omitted:
        print_message(f"Left out: {', '.join(omitted)}; --wide shows them.")


def print_record(record: Mapping[str, object], *, title: str) -> None:
    """Print one record, one line per value; long values are folded.

    Parameters
    ----------
    record
        Values by name.
    title
        Printed above.
    """
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in record.items():
        table.add_row(Text(name), Text(_cell(value)))
    Console().print(table)


def _omitted(widths: Mapping[str, int], leave_out: Sequence[str], available: int) -> list[str]:
    """Return the columns to omit so that the others fit."""
    omitted: list[str] = []
    for name in leave_out:
        shown = [width for column, width in widths.items() if column not in omitted]
        if sum(shown) + _GAP * (len(shown) - 1) <= available:
            break
        omitted.append(name)
    return omitted


def print_line(values: Iterable[object]) -> None:
    """Print values on one line."""
    sys.stdout.write("  ".join(_cell(value) for value in values) + "\n")


def print_message(message: str) -> None:
    """Print a message that is not part of the result, to standard error."""
    sys.stderr.write(message + "\n")


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar on a terminal, nothing elsewhere.

    Yields
    ------
    Callable or None
        To be called with the completed and total amounts.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _as_json(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _cell(value: Any) -> str:  # noqa: ANN401 (whatever a column holds)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
    if isinstance(value, Mapping | list | tuple):
        return printable(json.dumps(value, default=_as_json, ensure_ascii=False))
    return printable(str(value))
