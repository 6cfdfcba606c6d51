"""Export of results as JSON lines, CSV or Parquet.

The caller chooses the form of identifiers (`db.results.filters.IdentifierForm`); `db.results.masking` makes pseudonyms.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, TextIO, TypeVar, cast

from cxr.errors import StorageError
from cxr.printable import printable
from db.results.filters import IdentifierForm
from db.schema.records import ResultRow

if TYPE_CHECKING:
    import pyarrow

_UIDS = frozenset({"sop_instance_uid", "study_instance_uid", "series_instance_uid"})
_PERSONAL = frozenset({"patient_id", "accession_number"})
_LEFT_OUT: Mapping[IdentifierForm, frozenset[str]] = MappingProxyType(
    {
        IdentifierForm.PSEUDONYM: frozenset({"study_date"}),
        IdentifierForm.NONE: _UIDS | _PERSONAL | {"study_date"},
        IdentifierForm.UIDS: _PERSONAL,
        IdentifierForm.FULL: frozenset(),
    }
)
COLUMNS = tuple(field.name for field in fields(ResultRow))
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
_ROW_GROUP = 10_000

Plain = str | int | float | bool | None
Value = TypeVar("Value")


def columns(form: IdentifierForm) -> tuple[str, ...]:
    """Return the column names of an export, in order."""
    return tuple(name for name in COLUMNS if name not in _LEFT_OUT[form])


def as_record(row: ResultRow, names: Iterable[str] = COLUMNS) -> dict[str, Plain]:
    """Return one result as plain values; times as ISO 8601 in UTC.

    Parameters
    ----------
    row
        A result.
    names
        Columns.
    """
    return {name: _plain(getattr(row, name)) for name in names}


def write_json(rows: Iterable[ResultRow], stream: TextIO, *, form: IdentifierForm) -> int:
    """Write one JSON object per line.

    Returns
    -------
    int
        Number of rows.
    """
    names, count = columns(form), 0
    for count, row in enumerate(rows, start=1):  # noqa: B007 (the count is the result)
        stream.write(json.dumps(as_record(row, names), ensure_ascii=False) + "\n")
    return count


def write_csv(rows: Iterable[ResultRow], stream: TextIO, *, form: IdentifierForm) -> int:
    """Write CSV with a header line (RFC 4180).

    A text that a spreadsheet would evaluate as a formula is prefixed with an apostrophe
    (https://owasp.org/www-community/attacks/CSV_Injection): identifiers come from peers.

    Returns
    -------
    int
        Number of rows without the header.
    """
    names, count = columns(form), 0
    writer = csv.writer(stream)
    writer.writerow(names)
    for count, row in enumerate(rows, start=1):  # noqa: B007
        writer.writerow([_harmless(value) for value in as_record(row, names).values()])
    return count


def write_parquet(rows: Iterable[ResultRow], path: Path, *, form: IdentifierForm) -> int:
    """Write Apache Parquet; times are UTC timestamps.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    StorageError
        If pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: PLC0415 (absent in the listener's image)
        import pyarrow.parquet as parquet  # noqa: PLC0415
    except ImportError as error:
        raise StorageError(
            "Parquet needs pyarrow, which this installation lacks: install cxr-listener[worker], or use csv or json."
        ) from error
    names, count = columns(form), 0
    schema = pyarrow.schema([(name, _arrow_type(pyarrow, name)) for name in names])
    with parquet.ParquetWriter(path, schema) as writer:
        for chunk in _chunks(rows, _ROW_GROUP):
            # Times stay times; only enumerations become text.
            records = [{name: _clean(getattr(row, name)) for name in names} for row in chunk]
            writer.write_table(pyarrow.Table.from_pylist(records, schema=schema))
            count += len(records)
    return count


def _arrow_type(pyarrow: ModuleType, name: str) -> pyarrow.DataType:
    kind = str(ResultRow.__annotations__[name]).removesuffix(" | None")
    simple = {"int": pyarrow.int64(), "float": pyarrow.float64(), "bool": pyarrow.bool_()}
    return pyarrow.timestamp("us", tz="UTC") if kind == "datetime" else simple.get(kind, pyarrow.string())


def _plain(value: Plain | datetime) -> Plain:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return _clean(value.value if isinstance(value, StrEnum) else value)


def _clean(value: Value) -> Value:
    """Remove control characters from text of a peer; other values stay unchanged."""
    if isinstance(value, str) and not isinstance(value, StrEnum):
        return cast("Value", printable(value, lines=True))
    return value


def _harmless(value: Plain) -> Plain:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return value


def _chunks(rows: Iterable[ResultRow], size: int) -> Iterator[list[ResultRow]]:
    source = iter(rows)
    while chunk := list(islice(source, size)):
        yield chunk
