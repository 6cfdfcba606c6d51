"""Schema revisions of a database, and migration to the newest."""

from __future__ import annotations

from collections.abc import Sequence

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from cxr.errors import SchemaMismatch, StorageError


def _config(connection: Connection | None = None) -> Config:
    """Configure Alembic without a file: the wheel contains the migrations."""
    config = Config()
    config.set_main_option("script_location", "db:migrations")
    config.attributes["connection"] = connection
    return config


def revisions() -> tuple[str, ...]:
    """Return the revisions of this version, oldest first; the last one is current."""
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return tuple(script.revision for script in scripts)[::-1]


def newest_revision() -> str:
    """Return the current revision of this version."""
    return revisions()[-1]


def revision_of(connection: Connection) -> str | None:
    """Return the revision of an open database; None if it is empty.

    Raises
    ------
    SchemaMismatch
        If it has tables of another program.
    """
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None and inspect(connection).get_table_names():
        raise SchemaMismatch(
            "The database file holds tables that are not an audit database's: check data_dir; nothing was changed."
        )
    return revision


def check_revision(revision: str | None, supported: Sequence[str]) -> None:
    """Check that a database has the current revision.

    Parameters
    ----------
    revision
        Revision of the database.
    supported
        Result of ``revisions()``.

    Raises
    ------
    SchemaMismatch
        If the schema is older or newer.
    """
    newest = supported[-1]
    if revision == newest:
        return
    if revision is None:
        raise SchemaMismatch(
            f"The audit database is empty; this version works with schema {newest}: start the service once, "
            "or check data_dir."
        )
    if revision in supported:
        raise SchemaMismatch(
            f"The audit database has schema {revision}; this version works with schema {newest}: "
            "stop the service and run `cxr db upgrade`."
        )
    raise SchemaMismatch(
        f"The audit database has a schema that this version does not know (it works with schema {newest}): "
        "it was used by a newer version; install that version, or restore a backup from before."
    )


def migrate(connection: Connection) -> tuple[str | None, str]:
    """Migrate an open database to the current revision, in the connection's transaction.

    Returns
    -------
    tuple[str | None, str]
        Revisions before and after.

    Raises
    ------
    SchemaMismatch
        If it belongs to a newer version or to another program.
    StorageError
        If a migration leaves a dangling reference; the caller's transaction then rolls back.
    """
    supported, before = revisions(), revision_of(connection)
    if before is not None and before not in supported:
        check_revision(before, supported)
    command.upgrade(_config(connection), "head")
    if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
        raise StorageError("The upgrade would leave rows that refer to nothing: nothing was changed; report this.")
    return before, supported[-1]
