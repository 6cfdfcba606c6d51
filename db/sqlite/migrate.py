"""Which schema a database file has, and how it gets this version's."""

from __future__ import annotations

from collections.abc import Sequence

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from cxr.errors import SchemaMismatch, StorageError


def _config(connection: Connection | None = None) -> Config:
    """Configure Alembic without a file: the migrations travel inside the wheel."""
    config = Config()
    config.set_main_option("script_location", "db:migrations")
    config.attributes["connection"] = connection
    return config


def revisions() -> tuple[str, ...]:
    """Return every revision that this version knows, oldest first; the last is the one it works with."""
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return tuple(script.revision for script in scripts)[::-1]


def newest_revision() -> str:
    """Return the revision that this version works with."""
    return revisions()[-1]


def revision_of(connection: Connection) -> str | None:
    """Return the revision of an open database; None if nothing was ever created in it.

    Raises
    ------
    SchemaMismatch
        If it holds tables, but was not made by this project.
    """
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None and inspect(connection).get_table_names():
        raise SchemaMismatch(
            "The database file holds tables that are not an audit database's: check data_dir; nothing was changed."
        )
    return revision


def check_revision(revision: str | None, known: Sequence[str]) -> None:
    """Accept only the schema that this version works with.

    Parameters
    ----------
    revision
        What the database has.
    known
        As ``revisions()``.

    Raises
    ------
    SchemaMismatch
        If the schema is older or newer; the message says what to do.
    """
    newest = known[-1]
    if revision == newest:
        return
    if revision is None:
        raise SchemaMismatch(
            f"The audit database is empty; this version works with schema {newest}: start the service once, "
            "or check data_dir."
        )
    if revision in known:
        raise SchemaMismatch(
            f"The audit database has schema {revision}; this version works with schema {newest}: "
            "stop the service and run `cxr db upgrade`."
        )
    raise SchemaMismatch(
        f"The audit database has a schema that this version does not know (it works with schema {newest}): "
        "it was used by a newer version; install that version, or restore a backup from before."
    )


def migrate(connection: Connection) -> tuple[str | None, str]:
    """Bring an open database to this version's schema, inside the connection's transaction.

    Returns
    -------
    tuple[str | None, str]
        The revision it had and the one it has now.

    Raises
    ------
    SchemaMismatch
        If it was made by a newer version, or not by this project.
    StorageError
        If a migration left a reference without its row; the caller's transaction then rolls back.
    """
    known, before = revisions(), revision_of(connection)
    if before is not None and before not in known:
        check_revision(before, known)
    command.upgrade(_config(connection), "head")
    if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
        raise StorageError("The upgrade would leave rows that refer to nothing: nothing was changed; report this.")
    return before, known[-1]
