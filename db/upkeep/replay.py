"""Replay the events and compare the result with the rows: the second part of the tamper check.

The chain protects the events; the replay yields the expected states, scores (a shadow's included), decisions and
identifiers. Both sides are read as streams: a million images would take gigabytes of memory.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from db.events import EventKind
from db.images import seal, sealed_values
from db.schema.records import FactValue
from db.schema.tables import (
    Decision,
    Delivery,
    Event,
    Image,
    Job,
    Rebuild,
    Score,
    ShadowChange,
    ShadowResult,
    ShadowScore,
)
from db.sqlite.driver import sqlite3

MOST_DIFFERENCES = 10_000
"""Number of rows after which the checks stop to look for further ones."""

_SCORE = "score_"
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A row that differs from the events; ``id`` is its id, for scores the id of the job."""

    table: str
    id: int


class _Value(NamedTuple):
    """A value of a row: ``part`` is the finding of a score, ``text`` the value in JSON."""

    id: int
    part: str
    text: str


def differing_rows(session: Session, *, scratch: Path | None = None, most: int = MOST_DIFFERENCES) -> list[Difference]:
    """Compare the rows with the events.

    Parameters
    ----------
    session
        One read transaction; check the events first with ``db.events.verify_chain``.
    scratch
        A file to create for what the events say, about 100 bytes an event; None: in memory.
    most
        Largest number of rows to return.

    Returns
    -------
    list[Difference]
        Rows that were changed, added or deleted without an event.
    """
    with closing(sqlite3.connect(scratch or ":memory:", isolation_level=None)) as expected:
        forgotten = _replay(session, expected)
        differences = chain.from_iterable(
            _differences(table, _expected(expected, table, forgotten), rows)
            for table, rows in _rows(session, forgotten).items()
        )
        return list(islice(differences, most))


def _replay(session: Session, expected: sqlite3.Connection) -> Set[int]:
    """Write what the events say into a table; return the ids of forgotten images."""
    expected.execute("PRAGMA journal_mode = OFF")
    expected.execute("PRAGMA synchronous = OFF")
    expected.execute(
        "CREATE TABLE expected (source TEXT, id INTEGER, part TEXT, value TEXT, PRIMARY KEY (source, id, part)) "
        "WITHOUT ROWID"
    )
    forgotten: set[int] = set()
    columns = (Event.kind, Event.image_id, Event.job_id, Event.report_id, Event.delivery_id, Event.facts)
    events = session.execute(select(*columns).order_by(Event.id).execution_options(yield_per=_AT_ONCE))
    expected.execute("BEGIN")
    for kind, image_id, job_id, report_id, delivery_id, text in events:
        facts: Mapping[str, FactValue] = json.loads(text)
        values: Iterable[tuple[str, int, str, object]] = ()
        if delivery_id is not None:
            values = [("delivery", delivery_id, "", facts["state"])] if "state" in facts else ()
        elif kind == EventKind.SHADOW_SCORED and job_id is not None:
            package = int(str(facts["package"]))
            values = [("shadow_score", job_id, _shadow(package, name), score) for name, score in _scores(facts)]
        elif kind == EventKind.SHADOW_CHANGED:
            values = [("shadow_change", int(str(facts["change"])), "", facts["package"])]
        elif kind in (EventKind.REBUILD_STARTED, EventKind.REBUILD_ENDED):
            values = [("rebuild", int(str(facts["rebuild"])), "", facts["state"])]
        elif job_id is not None and report_id is None:
            values = _of_job(image_id, job_id, facts)
        elif kind == EventKind.PATIENT_FORGOTTEN and image_id is not None:
            forgotten.add(image_id)
        rows = [(source, number, part, json.dumps(value)) for source, number, part, value in values]
        expected.executemany("INSERT OR REPLACE INTO expected VALUES (?, ?, ?, ?)", rows)
    expected.execute("COMMIT")
    return forgotten


def _of_job(
    image_id: int | None, job_id: int, facts: Mapping[str, FactValue]
) -> Iterator[tuple[str, int, str, object]]:
    if "state" in facts:
        yield "job", job_id, "", facts["state"]
    if "seal" in facts and image_id is not None:
        yield "image", image_id, "", facts["seal"]
        yield "decision", image_id, "", [facts["view"], facts["is_chest"]]
    for finding, score in _scores(facts):
        yield "score", job_id, finding, score


def _scores(facts: Mapping[str, FactValue]) -> Iterator[tuple[str, FactValue]]:
    for key, value in facts.items():
        if key.startswith(_SCORE):
            yield key.removeprefix(_SCORE), value


def _shadow(package_id: int, finding: str) -> str:
    return f"{package_id:012d} {finding}"  # in the order of the numbers


def _expected(expected: sqlite3.Connection, table: str, forgotten: Set[int]) -> Iterator[_Value]:
    query = "SELECT id, part, value FROM expected WHERE source = ? ORDER BY id, part"
    for row in expected.execute(query, (table,)):
        value = _Value(*row)
        # The identifiers of a forgotten image are not known any more.
        yield value._replace(text="") if table == "image" and value.id in forgotten else value


def _rows(session: Session, forgotten: Set[int]) -> dict[str, Iterator[_Value]]:
    """Return the stored values of each table, in the order of `_Value`."""
    shadow_scores = (
        select(ShadowResult.job_id, ShadowResult.package_id, ShadowScore.finding, ShadowScore.score)
        .join(ShadowScore, ShadowScore.shadow_result_id == ShadowResult.id)
        .order_by(ShadowResult.job_id, ShadowResult.package_id, ShadowScore.finding)
    )

    def read(statement: Select[*tuple[Any, ...]]) -> Iterable[Row[*tuple[Any, ...]]]:
        return session.execute(statement.execution_options(yield_per=_AT_ONCE))

    return {
        "job": (_value(*row) for row in read(select(Job.id, Job.state).order_by(Job.id))),
        "delivery": (_value(*row) for row in read(select(Delivery.id, Delivery.state).order_by(Delivery.id))),
        "decision": (
            _value(number, [str(view), is_chest])
            for number, view, is_chest in read(
                select(Decision.image_id, Decision.view, Decision.is_chest).order_by(Decision.image_id)
            )
        ),
        "score": (
            _value(number, score, finding)
            for number, finding, score in read(
                select(Score.job_id, Score.finding, Score.score).order_by(Score.job_id, Score.finding)
            )
        ),
        "shadow_score": (
            _value(number, score, _shadow(package, finding)) for number, package, finding, score in read(shadow_scores)
        ),
        "shadow_change": (
            _value(*row) for row in read(select(ShadowChange.id, ShadowChange.package_id).order_by(ShadowChange.id))
        ),
        "rebuild": (_value(*row) for row in read(select(Rebuild.id, Rebuild.state).order_by(Rebuild.id))),
        "image": (
            _Value(image.id, "", "") if image.id in forgotten else _value(image.id, _seal(image))
            for image in session.scalars(select(Image).order_by(Image.id).execution_options(yield_per=_AT_ONCE))
        ),
    }


def _value(number: int, value: object, part: str = "") -> _Value:
    return _Value(number, part, json.dumps(value))


def _differences(table: str, expected: Iterator[_Value], rows: Iterator[_Value]) -> Iterator[Difference]:
    """Yield the ids whose values are not the same on both sides; both in the order of `_Value`."""
    for number, values in groupby(heapq.merge(expected, rows), key=lambda value: value.id):
        if any(sum(1 for _ in equal) != 2 for _, equal in groupby(values)):
            yield Difference(table=table, id=number)


def _seal(image: Image) -> str | None:
    return image.seal_salt and seal(image.seal_salt, sealed_values(image, image.dataset_digest))
