"""Writing single rows, by SQLAlchemy's Core.

Its ORM puts each statement together and hashes it anew, which takes most of the time of a small transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Table, insert

if TYPE_CHECKING:
    from sqlalchemy import Row
    from sqlalchemy.orm import Session

    from db.schema.tables import Base


def add_row(session: Session, table: type[Base], **values: Any) -> int:  # noqa: ANN401 (of every column type)
    """Write one row; columns that are not named get their defaults.

    Parameters
    ----------
    session
        A write transaction; objects that it has loaded are not told.
    table
        Of ``db.schema.tables``; its first primary key is an integer.
    values
        By column; converted and checked as the column's type does it.

    Returns
    -------
    int
        The row's primary key, the first of several.

    Raises
    ------
    TypeError
        If the table has no such column.
    StorageError
        If the database refuses the row; raised by the transaction around it.
    """
    columns = cast("Table", table.__table__)
    if unknown := values.keys() - columns.columns.keys():  # SQLAlchemy would leave them out without a word
        raise TypeError(f"{table.__name__} has no column {', '.join(sorted(unknown))}.")
    written = session.connection().execute(insert(columns), values)
    (key, *_) = cast("Row[Any]", written.inserted_primary_key)  # of one row it is never None
    return int(key)
