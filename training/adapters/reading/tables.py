"""Read the tables of data sets line by line, and list the lines that can't be used.

Accepted are commas, semicolons or tabs, with or without a byte order mark, in UTF-8 or Latin-1, compressed by gzip or
not.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TextIO

import pandas as pd

from cxr.errors import ManifestError
from training.adapters.reading.result import Rejection

LINE = "#line"
"""The column that ``read_table`` adds: the row's line number in the file."""

_NAMED_LINES, _NAMED_WORDS, _LONGEST_WORD = 5, 8, 40

_CHUNK = 20_000  # rows in memory as Python strings at once
_MAX_FIELD = 16 * 1024 * 1024  # bytes; report texts are long


def read_table(
    path: Path, rejected: list[Rejection], *, required: Sequence[str] = (), name: str | None = None
) -> pd.DataFrame:
    """Read a CSV or TSV file as text.

    Parameters
    ----------
    path
        The file.
    rejected
        Lines with too few or too many fields are added to it.
    required
        Columns that it must have, ignoring case and surrounding space.
    name
        Of the file in rejections; default: its file name.

    Returns
    -------
    pandas.DataFrame
        ``str`` values, stripped, and the line's number in ``LINE``. Columns are named as in
        ``required`` where they are in it, else as in the file, stripped.

    Raises
    ------
    ManifestError
        If it can't be read, or lacks a column.
    """
    table_name = name or path.name
    try:
        encoding = _encoding(path)
        with _open(path, encoding) as stream:
            csv.field_size_limit(_MAX_FIELD)
            reader = csv.reader(stream, delimiter=_delimiter(stream.readline()))
            stream.seek(0)
            header = _header(next(reader, []), required, table_name)
            chunks = list(_chunks(reader, header, rejected, table_name))
    except (OSError, EOFError, zlib.error, UnicodeError, csv.Error) as error:
        raise ManifestError(
            f"The table {table_name} can't be read ({type(error).__name__}); accepted is a CSV file with a header line."
        ) from error
    empty = pd.DataFrame(columns=[*header, LINE])
    return pd.concat(chunks, ignore_index=True) if chunks else empty


def find_table(folder: Path, name: str, *, option: str = "--table") -> Path:
    """Return the table with this name, or without a name the only one in the folder.

    Raises
    ------
    ManifestError
        If there is none, or there are several.
    """
    if name:
        if not (folder / name).is_file():
            raise ManifestError(f"There is no file {name!r} in the folder {folder.name!r} ({option}).")
        return folder / name
    tables = sorted(path for path in folder.iterdir() if path.suffix.casefold() in (".csv", ".tsv"))
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise ManifestError(
            f"The folder {folder.name!r} should hold one CSV file, and holds {names}: name it with {option}."
        )
    return tables[0]


def read_sheet(path: Path) -> pd.DataFrame:
    """Read the first sheet of an Excel workbook as text, with the row's number in ``LINE``.

    Raises
    ------
    ManifestError
        If it can't be read.
    """
    try:
        frame = pd.read_excel(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError, KeyError) as error:  # a damaged archive is one of these
        raise ManifestError(
            f"The workbook {path.name} can't be read ({type(error).__name__}); accepted is .xlsx with a header line."
        ) from error
    frame.columns = [str(column).strip() for column in frame.columns]
    return frame.fillna("").assign(**{LINE: range(2, len(frame) + 2)})


def _open(path: Path, encoding: str) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=encoding, newline="")
    return path.open(encoding=encoding, newline="")


def _encoding(path: Path) -> str:
    """Return UTF-16 for a file with its mark, UTF-8 if all of it is UTF-8, else Latin-1, which decodes any byte."""
    with path.open("rb") as beginning:
        if beginning.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
    try:
        with _open(path, "utf-8-sig") as stream:
            while stream.read(1 << 20):
                pass
    except UnicodeError:
        return "latin-1"
    return "utf-8-sig"


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _header(fields: Sequence[str], required: Sequence[str], table_name: str) -> list[str]:
    names_by_key = {name.casefold(): name for name in required}
    # Spreadsheets write columns without a name at the end; each gets a name that occurs in no data set.
    names = [field.strip() or f"#{number}" for number, field in enumerate(fields, start=1)]
    header = [names_by_key.get(name.casefold(), name) for name in names]
    if missing := [name for name in required if name not in header]:
        raise ManifestError(
            f"The table {table_name} lacks the column {', '.join(missing)}: is this the data set that was named?"
        )
    if len(set(header)) < len(header):
        raise ManifestError(f"The table {table_name} has a column name twice: rename one.")
    return header


def _chunks(
    lines: Iterator[list[str]], header: list[str], rejected: list[Rejection], table_name: str
) -> Iterable[pd.DataFrame]:
    rows: list[list[str]] = []
    numbers: list[int] = []
    named = len(header) - sum(1 for _ in takewhile(lambda name: name.startswith("#"), reversed(header)))
    for fields in lines:
        line = lines.line_num  # type: ignore[attr-defined]  # csv's readers have it
        if named <= len(fields) < len(header):
            fields = [*fields, *[""] * (len(header) - len(fields))]  # NIH's boxes lack the columns without a name
        if len(fields) == len(header):
            rows.append(fields)
            numbers.append(line)
        elif any(field.strip() for field in fields):
            rejected.append(Rejection(table_name, line, "fields"))
        if len(rows) == _CHUNK:
            yield _frame(rows, numbers, header)
            rows, numbers = [], []
    if rows:
        yield _frame(rows, numbers, header)


def _frame(rows: list[list[str]], numbers: list[int], header: list[str]) -> pd.DataFrame:
    columns = {name: pd.Series(values, dtype=str) for name, values in zip(header, zip(*rows, strict=True), strict=True)}
    frame = pd.DataFrame({name: values.str.strip() for name, values in columns.items()})
    return frame.assign(**{LINE: numbers})


def unread(lines: pd.Series, given: pd.DataFrame, read: pd.DataFrame, *, taken: pd.Series) -> Iterator[str]:
    """Yield a sentence for each optional column with values that can't be read; lines only, they are patients' values.

    Parameters
    ----------
    lines
        The lines' numbers.
    given, read
        Values as in the table, and as in a manifest.
    taken
        Whether each line is taken.
    """
    for name, form in (("age", "years, or a DICOM age"), ("acquired_on", "a day; --date-format names its form")):
        if name in given:
            is_lost = taken & (given[name] != "") & (read[name].isna() | (read[name] == ""))
            if is_lost.any():
                where = ", ".join(str(line) for line in lines[is_lost][:_NAMED_LINES])
                yield (
                    f"{name} can't be read in {int(is_lost.sum())} lines, and is left empty there (line {where}"
                    f"{', ...' if is_lost.sum() > _NAMED_LINES else ''}); accepted is {form}."
                )


def unknown_words(values: Iterable[str], option: str) -> Iterator[str]:
    """Yield a sentence with the words that are no known label, and the option that maps them; none without words."""
    counts = Counter(values).most_common()
    if counts:
        named = ", ".join(f"{word[:_LONGEST_WORD]!r} ({count})" for word, count in counts[:_NAMED_WORDS])
        more = f" and {len(counts) - _NAMED_WORDS} others" if len(counts) > _NAMED_WORDS else ""
        yield f"Unknown words: {named}{more}. Map them with {option}."
