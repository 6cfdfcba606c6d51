"""The schema: migrations give what the tables say, and another version's is refused with a word on what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from cxr.errors import SchemaMismatch, StorageError
from db import migrations
from db.engine import Database, upgrade
from db.events import verify_chain
from db.schema.tables import Base
from db.schema.views import TRIGGERS, VIEWS
from db.sqlite import migrate
from db.sqlite.driver import sqlite3


def _objects(path: Path) -> dict[tuple[str, str], str]:
    """Everything the file holds but Alembic's own table, without white space."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    connection.close()
    return {(kind, name): re.sub(r"\s+", "", sql or "") for kind, name, sql in rows if "alembic_version" not in name}


def test_every_file_of_a_revision_is_one_the_oldest_first() -> None:
    files = sorted(Path(migrations.__file__ or "").parent.glob("versions/revision_*.py"))
    assert migrate.revisions() == tuple(path.stem.removeprefix("revision_") for path in files)


def test_migrations_give_the_schema_of_the_tables(audit_database: Database, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'tables.sqlite'}")
    Base.metadata.create_all(engine)
    engine.dispose()
    migrated = _objects(audit_database.path)
    assert migrated == _objects(tmp_path / "tables.sqlite")
    assert {kind for kind, _ in migrated} == {"table", "index", "view", "trigger"}
    assert {name for kind, name in migrated if kind == "view"} == set(VIEWS)
    assert {name for kind, name in migrated if kind == "trigger"} == set(TRIGGERS)


def test_alembic_finds_nothing_to_migrate(audit_database: Database) -> None:
    with audit_database.read() as session:
        context = MigrationContext.configure(session.connection())
        assert compare_metadata(context, Base.metadata) == []


def test_every_view_can_be_read(audit_database: Database) -> None:
    connection = sqlite3.connect(audit_database.path)
    for name in VIEWS:
        connection.execute(f"SELECT * FROM {name}").fetchall()
    connection.close()


def test_migrations_travel_in_the_package() -> None:
    files = {each.name for each in resources.files("db.migrations").joinpath("versions").iterdir()}
    assert {f"revision_{revision}.py" for revision in migrate.revisions()} <= files
    assert resources.files("db.migrations").joinpath("env.py").is_file()


def _set_revision(path: Path, revision: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()


def test_a_newer_schema_is_refused(open_audit: Callable[..., Database], tmp_path: Path) -> None:
    path = open_audit().path
    _set_revision(path, "9999")
    with pytest.raises(SchemaMismatch, match="newer version"):
        open_audit()
    with pytest.raises(SchemaMismatch, match="newer version"):
        upgrade(path, tmp_path / "keys" / "audit.key")


def test_an_older_schema_is_told_to_upgrade() -> None:
    with pytest.raises(SchemaMismatch, match=r"has schema 0001.*works with schema 0002.*cxr db upgrade"):
        migrate.check_revision("0001", ["0001", "0002"])
    with pytest.raises(SchemaMismatch, match="is empty"):
        migrate.check_revision(None, ["0001", "0002"])
    migrate.check_revision("0002", ["0001", "0002"])


def test_an_upgrade_of_the_newest_schema_changes_nothing(audit_database: Database, tmp_path: Path) -> None:
    before = _objects(audit_database.path)
    newest = migrate.newest_revision()
    assert upgrade(audit_database.path, tmp_path / "keys" / "audit.key") == (newest, newest)
    assert _objects(audit_database.path) == before
    with audit_database.read() as session:
        assert verify_chain(session).events == 1


def test_there_is_nothing_to_upgrade(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no audit database"):
        upgrade(tmp_path / "audit.sqlite", tmp_path / "audit.key")
