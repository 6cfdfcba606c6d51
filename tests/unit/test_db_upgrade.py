"""A database that an earlier version left, with everything in it, is upgraded by `cxr db upgrade` and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from cxr.domain import JobState, PackageStatus
from cxr.errors import SchemaMismatch, StorageError
from db import jobs
from db.engine import Database, open_database, upgrade
from db.events import verify_chain
from db.jobs import shadow_scores
from db.models import list_activations
from db.results.queries import ResultFilter, list_results
from db.sqlite import migrate
from db.sqlite.driver import sqlite3
from db.upkeep.replay import differing_rows

KEY = "0001" * 16


@pytest.fixture
def data_dir(tmp_path: Path, root: Path) -> Path:
    """An installation whose database has schema 0001 (tests/data/make_audit_0001.py made its rows)."""
    data, keys = tmp_path / "var", tmp_path / "var.keys"
    data.mkdir(mode=0o700)
    keys.mkdir(mode=0o700)
    (keys / "audit.key").touch(mode=0o600)
    (keys / "audit.key").write_text(KEY)
    with closing(sqlite3.connect(data / "audit.sqlite")) as connection:
        connection.executescript((root / "tests" / "data" / "audit_0001.sql").read_text())
    return data


@pytest.fixture
def cxr(data_dir: Path) -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(app, ["--set", f"data_dir={data_dir}", *arguments])


def open_(data_dir: Path) -> Database:
    return open_database(data_dir / "audit.sqlite", data_dir.with_name("var.keys") / "audit.key", create=False)


def rows_of(path: Path, *tables: str) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(path)) as connection:
        return {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in tables}


def test_it_is_not_opened_before(data_dir: Path, cxr: Callable[..., Result]) -> None:
    with pytest.raises(SchemaMismatch, match=r"schema 0001.*cxr db upgrade"):
        open_(data_dir)
    assert isinstance(cxr("audit", "list").exception, SchemaMismatch)


def test_nothing_is_lost_and_the_chain_goes_on(data_dir: Path, cxr: Callable[..., Result]) -> None:
    path = data_dir / "audit.sqlite"
    kept = ("image", "decision", "job", "score", "report", "delivery", "package", "activation", "results", "scores")
    before, events = rows_of(path, *kept), rows_of(path, "event")["event"]
    assert all(before.values())
    done = cxr("db", "upgrade")
    assert done.exit_code == 0, done.output
    assert rows_of(path, *kept) == before
    after = rows_of(path, "event")["event"]
    assert after[: len(events)] == events
    kinds = [row[2] for row in after[len(events) :]]
    assert kinds == ["rows_sealed"] * (len(kinds) - 1) + ["schema_upgraded"]
    sealed = {name.rpartition("_")[0] for row in after for name in json.loads(row[7]) if name.startswith("row_")}
    assert {"row_image", "row_pixels", "row_job", "row_report", "row_order", "row_delivery", "row_package"} <= sealed
    database = open_(data_dir)  # and changes its journal
    after = rows_of(path, "event")["event"]
    with database.read() as session:
        assert verify_chain(session).ok
        assert verify_chain(session).events == len(after)
        assert differing_rows(session) == []
        assert migrate.revision_of(session.connection()) == migrate.newest_revision()
    database.dispose()
    assert cxr("audit", "verify", "--all").exit_code == 0
    again = cxr("db", "upgrade")
    assert again.exit_code == 0
    assert rows_of(path, "event")["event"] == after


def test_the_service_goes_on_with_it(
    data_dir: Path, cxr: Callable[..., Result], make_scored: Any, make_report: Any, noon: Any
) -> None:
    assert cxr("db", "upgrade").exit_code == 0
    database = open_(data_dir)
    later = noon + timedelta(days=365)
    with database.begin() as session:
        (job,) = jobs.claim(session, worker_id="w", limit=9, now=later, lease_s=60)
        scored = make_scored(covid19=0.25)
        jobs.finish(
            session, job.id, worker_id="w", scored=scored, reports=[make_report(77)], destinations=["pacs"], now=later
        )
        package = shadow_scores.ShadowPackage(
            fingerprint="cd" * 32, name="b", version="2", status=PackageStatus.EVALUATED
        )
        shadow_scores.change(session, package, actor="tests", reason="tests", now=later)
        assert shadow_scores.write_scores(session, job.id, make_scored(covid19=0.5), now=later)
    with database.read() as session:
        assert differing_rows(session) == []
        assert jobs.count_by_state(session)[JobState.REPORTED] == 4
        (found,) = list_results(session, ResultFilter(of_shadow=True))
        assert (found.score, found.delivered) == (0.5, None)
        assert [each.accepted_gates for each in list_activations(session)] == [("subgroups",)]
    database.dispose()


def test_an_upgrade_that_fails_leaves_the_old_schema(data_dir: Path) -> None:
    path = data_dir / "audit.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE score SET job_id = 99 WHERE id = 1")
    with pytest.raises(StorageError, match="nothing was changed"):
        upgrade(path, data_dir.with_name("var.keys") / "audit.key")
    assert rows_of(path, "alembic_version") == {"alembic_version": [("0001",)]}
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        rows_of(path, "shadow_score")
