"""Insertion of single rows with SQLAlchemy Core.

The ORM builds and hashes each statement again, which takes most of the time of a small transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Table, insert

if TYPE_CHECKING:
    from sqlalchemy import Row
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
    columns = cast("Table", table.__table__)
    if unknown := values.keys() - columns.columns.keys():  # SQLAlchemy would ignore them
        raise TypeError(f"{table.__name__} has no column {', '.join(sorted(unknown))}.")
    result = session.connection().execute(insert(columns), values)
    (key, *_) = cast("Row[Any]", result.inserted_primary_key)  # never None for one row
    return int(key)
