"""Statements of the hot paths: compiled once by SQLAlchemy Core, executed by the driver.

The ORM, and Core too, spend several times what SQLite needs on building, hashing and looking up a small statement
and on describing its result. The values are converted by the column types, as Core does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import insert
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.exc import StatementError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Select, Table
    from sqlalchemy.engine.interfaces import Compiled
    from sqlalchemy.orm import Session
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.types import TypeEngine

_DIALECT = pysqlite.dialect()


DRIVER = "driver"  # key in a session's info: the driver's connection, if the session has one transaction


def send(session: Session, sql: str, values: Sequence[object]) -> sqlite3.Cursor:
    """Execute a statement on the driver's connection, in a session's transaction.

    SQLAlchemy takes several times what SQLite needs for a small statement and its result. Objects that wait in the
    session are not written before; close the cursor, or read it to its end.

    Parameters
    ----------
    session
        Any transaction.
    sql, values
        The statement, with question marks for its values as SQLite stores them.

    Raises
    ------
    sqlite3.Error
        If SQLite refuses; the transaction around it translates the error.
    """
    connection = session.info.get(DRIVER) or session.connection().connection.driver_connection
    return cast("sqlite3.Connection", connection).execute(sql, values)


class Query:
    """A SELECT of one row.

    Parameters
    ----------
    statement
        Its columns have distinct names, and it has LIMIT 1.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]]) -> None:
        self._text = _Text(statement.compile(dialect=_DIALECT))
        self._columns = [(str(column.key), _from_database(column.type)) for column in statement.selected_columns]

    def first(self, session: Session, **parameters: object) -> dict[str, Any] | None:
        """Return the first row by column, or None."""
        rows = self._text.send(session, parameters).fetchall()
        if not rows:
            return None
        pairs = zip(self._columns, rows[0], strict=True)
        return {name: value if convert is None else convert(value) for (name, convert), value in pairs}


class Insertion:
    """An INSERT of one row.

    Parameters
    ----------
    table
        The table.
    columns
        Columns that have a value.
    """

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        self._text = _Text(insert(table).inline().compile(dialect=_DIALECT, column_keys=columns))

    def execute(self, session: Session, values: Mapping[str, object]) -> int:
        """Insert a row and return its rowid."""
        return self._text.send(session, values).lastrowid or 0


class _Text:
    """A compiled statement: its text, and the order and conversion of its parameters."""

    def __init__(self, compiled: Compiled) -> None:
        compiled = cast("SQLCompiler", compiled)
        self._sql = compiled.string
        self._fixed = {name: bind.value for name, bind in compiled.binds.items() if not bind.required}
        self._parameters = [(name, _to_database(compiled.binds[name].type)) for name in compiled.positiontup or ()]

    def send(self, session: Session, values: Mapping[str, object]) -> sqlite3.Cursor:
        return send(session, self._sql, self._stored({**self._fixed, **values}))

    def _stored(self, values: Mapping[str, object]) -> tuple[object, ...]:
        given = ((values[name], convert) for name, convert in self._parameters)
        try:
            return tuple(value if convert is None else convert(value) for value, convert in given)
        except (TypeError, ValueError, LookupError) as error:  # as Core does it, without the values
            raise StatementError(str(error), self._sql, None, error, hide_parameters=True) from error


def _to_database(kind: TypeEngine[Any]) -> Callable[[Any], Any] | None:
    return kind.dialect_impl(_DIALECT).bind_processor(_DIALECT)


def _from_database(kind: TypeEngine[Any]) -> Callable[[Any], Any] | None:
    return kind.dialect_impl(_DIALECT).result_processor(_DIALECT, None)
