"""Settings, database and spool of a command on the audit database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from config.context import CommandContext

if TYPE_CHECKING:
    from config.settings import Settings
    from db.disk import Spool
    from db.engine import Database

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]


def settings_of(ctx: typer.Context) -> Settings:
    """Read the settings of this command.

    Raises
    ------
    SettingsError
        If the settings are invalid.
    """
    context: CommandContext = ctx.obj
    return context.settings()


@contextmanager
def open_audit(settings: Settings) -> Iterator[Database]:
    """Open the existing audit database.

    Raises
    ------
    SchemaMismatch
        If its schema is older or newer.
    StorageError
        If it does not exist, or its key is missing.
    """
    from db.engine import open_database
    from db.identifiers import load_identifiers

    identifiers = load_identifiers(settings.audit.identifiers, settings.pseudonym_key_path, create=False)
    database = open_database(
        settings.database_path,
        settings.audit_key_path,
        create=False,
        identifiers=identifiers,
        traces=settings.database_traces,
    )
    try:
        yield database
    finally:
        database.dispose()


def open_spool(settings: Settings) -> Spool:
    """Return the spool of this installation."""
    from db.disk import Spool

    return Spool(settings.spool_dir, min_free_mib=settings.listener.min_free_mib)


def now() -> datetime:
    """Return the current time, in UTC."""
    return datetime.now(UTC)
