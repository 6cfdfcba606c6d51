"""What the verbs on the audit database print: tables for people, lines of JSON for programs."""

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

_WIDE = 200  # columns of a table that goes into a file or a pipe


def print_json(record: object) -> None:
    """Print one object on one line; times as ISO 8601 in UTC."""
    sys.stdout.write(json.dumps(record, default=_as_json, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table; times as local time, what is absent as an empty cell."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    table = Table(*columns, title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console.print(table, markup=False)


def say(message: str) -> None:
    """Tell the person at the terminal something that is no result."""
    sys.stderr.write(message + "\n")


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar on a terminal, nothing elsewhere.

    Yields
    ------
    Callable or None
        To be called with what is done and what there is to do.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
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
        return json.dumps(value, default=_as_json, ensure_ascii=False)
    return str(value)
