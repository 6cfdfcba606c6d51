"""Insertion of single rows with statements that are compiled once.

The ORM, and Core, build and hash each statement again, which takes most of the time of a small transaction.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import ColumnDefault

from db.schema.statements import Insertion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Table
    from sqlalchemy.orm import Session

    from db.schema.tables import Base


def add_row(session: Session, table: type[Base], **values: Any) -> int:  # noqa: ANN401 (of every column type)
    """Insert one row; other columns get their defaults.

    Parameters
    ----------
    session
        A write transaction; its loaded objects are not updated.
    table
        Table of ``db.schema.tables``; its first primary key is an integer.
    values
        Values by column, converted by the column types.

    Returns
    -------
    int
        Primary key of the row; the first column of a composite one.

    Raises
    ------
    TypeError
        If a column does not exist.
    StorageError
        If the database refuses the row; raised by the transaction around it.
    """
    columns = cast("Table", table.__table__).columns
    if unknown := values.keys() - columns.keys():  # SQLAlchemy would ignore them
        raise TypeError(f"{table.__name__} has no column {', '.join(sorted(unknown))}.")
    values = {**_defaults(table), **values}
    rowid = _insertion(table, tuple(values)).execute(session, values)
    key = next(column.name for column in columns if column.primary_key)
    return int(values.get(key, rowid))


@cache
def _insertion(table: type[Base], columns: tuple[str, ...]) -> Insertion:
    return Insertion(cast("Table", table.__table__), columns)


@cache
def _defaults(table: type[Base]) -> Mapping[str, Any]:
    defaults = {column.name: column.default for column in cast("Table", table.__table__).columns}
    return {name: default.arg for name, default in defaults.items() if isinstance(default, ColumnDefault)}
