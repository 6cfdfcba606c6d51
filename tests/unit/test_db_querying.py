"""The example queries of docs/querying.md, run as they stand there on a snapshot."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cxr.domain import DeliveryState, JobState, View
from db.jobs import shadow_scores
from db.schema.views import VIEWS
from db.sqlite.driver import sqlite3
from db.upkeep.snapshot import refresh_snapshot


@pytest.fixture(scope="session")
def page(root: Path) -> str:
    return (root / "docs" / "querying.md").read_text()


@pytest.fixture(scope="session")
def examples(page: str) -> dict[int, str]:
    return {int(number): sql for number, sql in re.findall(r"### (\d+)\. .*?```sql\n(.*?)```", page, re.DOTALL)}


@pytest.fixture
def snapshot(audit_site: Any, make_scored: Any) -> Path:
    audit_site.receive(1)
    audit_site.receive(1, content=b"first of two")
    audit_site.later(seconds=2)
    audit_site.score(scores={"covid19": 0.9, "normal": 0.1}, destinations=["pacs"])
    audit_site.deliver(outcome=DeliveryState.VERIFIED)
    audit_site.later(days=1)
    audit_site.receive(2, peer="OTHER")
    audit_site.score(scores={"covid19": 0.2, "normal": 0.8}, destinations=["pacs"])
    audit_site.deliver(outcome=DeliveryState.DEAD)
    audit_site.receive(3, state=JobState.NOT_SCORED, view=View.NOT_FRONTAL, reason="view_position_not_frontal")
    audit_site.receive(4)
    audit_site.fail()
    audit_site.receive(5, state=JobState.HELD, view=View.UNKNOWN, reason="view_unknown")
    with audit_site.database.begin() as session:
        shadow_scores.write_scores(session, 1, make_scored(covid19=0.7, normal=0.1), now=audit_site.now)
        shadow_scores.write_scores(session, 3, make_scored(covid19=0.6, normal=0.8), now=audit_site.now)
    refresh_snapshot(audit_site.database, audit_site.settings.snapshot_path)
    path: Path = audit_site.settings.snapshot_path
    return path


# By number of the example: how many rows, and what the first of them says.
EXPECTED: dict[int, tuple[int, dict[str, Any]]] = {
    1: (4, {"state": "reported", "reason": "view_position_frontal", "images": 2}),
    2: (3, {"day": "2026-01-10", "peer_ae_title": "ORTHANC", "images": 2}),
    3: (1, {"image_id": 2, "score": 0.9, "threshold": 0.5, "model": "resnet50"}),
    4: (2, {"covid19": 0.9, "normal": 0.1}),
    5: (4, {"finding": "covid19", "about": 0.2, "images": 1}),
    6: (1, {"reason": "view_position_not_frontal", "view_position": "PA", "images": 1}),
    7: (2, {"state": "failed", "error_code": "damaged_pixels"}),
    8: (1, {"destination": "pacs", "state": "dead", "error_code": "peer_refused", "reports": 1}),
    9: (1, {"destination": "pacs", "reports": 2, "mean_s": 2.0, "longest_s": 2.0}),
    10: (7, {"kind": "changed_resend"}),
    11: (2, {"finding": "covid19", "images": 2, "agreement": 0.5, "mean_difference": 0.1, "mean_distance": 0.3}),
}


def test_there_are_eleven(examples: dict[int, str]) -> None:
    assert sorted(examples) == list(range(1, 12)) == sorted(EXPECTED)


@pytest.mark.parametrize("number", EXPECTED)
def test_an_example_gives_what_its_title_says(snapshot: Path, examples: dict[int, str], number: int) -> None:
    with closing(sqlite3.connect(f"{snapshot.as_uri()}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        rows = [dict(row) for row in connection.execute(examples[number])]
    count, first = EXPECTED[number]
    assert len(rows) == count, rows
    assert {name: rows[0][name] for name in first} == {
        name: pytest.approx(value, abs=0.001) if isinstance(value, float) else value for name, value in first.items()
    }


def test_every_view_is_on_the_page(page: str) -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(VIEWS)
