"""The shadow's row, its scores apart from those that count, and the events of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from cxr.domain import PackageStatus
from cxr.errors import MissingRow
from db.engine import Database
from db.events import verify_chain
from db.jobs import shadow_scores
from db.results.queries import ResultFilter, iterate_results, list_results, show
from db.sqlite.driver import sqlite3
from db.upkeep.replay import Difference, differing_rows

FIRST = shadow_scores.ShadowPackage(fingerprint="cd" * 32, name="a", version="1", status=PackageStatus.EVALUATED)
SECOND = shadow_scores.ShadowPackage(fingerprint="ef" * 32, name="b", version="2", status=PackageStatus.UNTRAINED)


def change(site: Any, package: shadow_scores.ShadowPackage | None) -> None:
    with site.database.begin() as session:
        shadow_scores.change(session, package, actor="someone", reason="a trial", now=site.now)


def current(database: Database) -> shadow_scores.ShadowPackage | None:
    with database.read() as session:
        return shadow_scores.current(session)


@pytest.fixture
def shadowed(audit_site: Any, make_scored: Callable[..., Any]) -> Any:
    """A site where two images were reported, and the first of them scored by a shadow."""
    change(audit_site, FIRST)
    audit_site.receive(1)
    audit_site.receive(2)
    job, _ = audit_site.score(scores={"covid19": 0.9, "normal": 0.1}, destinations=["pacs"])
    with audit_site.database.begin() as session:
        assert shadow_scores.write_scores(session, job, make_scored(covid19=0.6, normal=0.25), now=audit_site.now)
    return audit_site


def test_the_latest_change_says_which_it_is(audit_site: Any) -> None:
    assert current(audit_site.database) is None
    change(audit_site, FIRST)
    assert current(audit_site.database) == FIRST
    audit_site.later(minutes=1)
    change(audit_site, SECOND)
    assert current(audit_site.database) == SECOND
    change(audit_site, None)
    assert current(audit_site.database) is None
    with audit_site.database.read() as session:
        assert differing_rows(session) == []
        assert shadow_scores.latest_change(session) == 3
    with closing(sqlite3.connect(audit_site.database.path)) as connection:
        rows = connection.execute("SELECT fingerprint, actor, reason FROM shadow_changes").fetchall()
    assert rows == [(FIRST.fingerprint, "someone", "a trial"), (SECOND.fingerprint, "someone", "a trial"),
                    (None, "someone", "a trial")]  # fmt: skip


def test_what_counts_shows_no_score_of_a_shadow(shadowed: Any) -> None:
    with shadowed.database.read() as session:
        counted = list_results(session, ResultFilter())
        beside = list_results(session, ResultFilter(of_shadow=True))
        assert len(list_results(session, ResultFilter(of_shadow=True, min_score=0.5))) == 1
        first, second = show(session, 1)[0], show(session, 2)[0]
    assert {(row.image_id, row.finding): row.score for row in counted} == {
        (1, "covid19"): 0.9, (1, "normal"): 0.1, (2, "covid19"): 0.9, (2, "normal"): 0.1,
    }  # fmt: skip
    assert {(row.image_id, row.finding): (row.score, row.at_or_above, row.delivered) for row in beside} == {
        (1, "covid19"): (0.6, True, None), (1, "normal"): (0.25, False, None),
    }  # fmt: skip
    assert [row["score"] for row in first.scores] == [0.9, 0.1]
    assert [row["score"] for row in first.shadow_scores] == [0.6, 0.25]
    assert second.shadow_scores == ()
    assert [row.finding for row in iterate_results(shadowed.database, ResultFilter(of_shadow=True))] == [
        "covid19", "normal",
    ]  # fmt: skip


def test_the_command_lists_them_apart(shadowed: Any) -> None:
    def rows(*options: str) -> list[dict[str, Any]]:
        done = CliRunner().invoke(app, ["--set", f"data_dir={shadowed.settings.data_dir}", "audit", *options])
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert len(rows("list", "--json")) == 4
    assert [row["score"] for row in rows("list", "--json", "--shadow")] == [0.6, 0.25]
    assert [row["score"] for row in rows("export", "--format", "json", "--shadow", "--finding", "covid19")] == [0.6]
    (shown,) = rows("show", "1", "--json")
    assert [row["score"] for row in shown["shadow_scores"]] == [0.6, 0.25]


def test_a_second_writer_changes_nothing(shadowed: Any, make_scored: Callable[..., Any]) -> None:
    with shadowed.database.begin() as session:
        assert not shadow_scores.write_scores(session, 1, make_scored(covid19=0.1, normal=0.9), now=shadowed.now)
    with shadowed.database.read() as session:
        assert differing_rows(session) == []
        assert len(list_results(session, ResultFilter(of_shadow=True))) == 2


def test_there_must_be_a_job(audit_site: Any, make_scored: Callable[..., Any]) -> None:
    with pytest.raises(MissingRow), audit_site.database.begin() as session:
        shadow_scores.write_scores(session, 99, make_scored(covid19=0.1), now=audit_site.now)


@pytest.mark.parametrize(
    ("statement", "difference"),
    [
        ("UPDATE shadow_score SET score = 0.61 WHERE finding = 'covid19'", Difference(table="shadow_score", id=1)),
        ("DELETE FROM shadow_score WHERE finding = 'normal'", Difference(table="shadow_score", id=1)),
        ("UPDATE shadow_result SET job_id = 2", Difference(table="shadow_score", id=1)),
        ("INSERT INTO shadow_score (shadow_result_id, finding, score) VALUES (1, 'x', 0)",
         Difference(table="shadow_score", id=1)),
        ("UPDATE shadow_change SET package_id = NULL", Difference(table="shadow_change", id=1)),
    ],
)  # fmt: skip
def test_a_changed_row_is_found(shadowed: Any, statement: str, difference: Difference) -> None:
    with shadowed.database.read() as session:
        assert differing_rows(session) == []
    with closing(sqlite3.connect(shadowed.database.path)) as connection, connection:
        assert connection.execute(statement).rowcount == 1
    with shadowed.database.read() as session:
        assert differing_rows(session)[0] == difference
        assert verify_chain(session).ok


def test_giving_up_is_an_event(audit_site: Any) -> None:
    with audit_site.database.begin() as session:
        shadow_scores.give_up(session, "cd" * 32, code="damaged_package", now=audit_site.now + timedelta(seconds=1))
    with closing(sqlite3.connect(audit_site.database.path)) as connection:
        kind, facts = connection.execute("SELECT kind, facts FROM events ORDER BY event_id DESC").fetchone()
    assert (kind, json.loads(facts)) == ("shadow_given_up", {"code": "damaged_package", "fingerprint": "cd" * 32})
