"""Replay the events and compare the result with the rows: the second part of the tamper check.

The chain protects the events; the replay yields the expected states, scores (a shadow's included), decisions and
identifiers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
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

_SCORE = "score_"


@dataclass(slots=True)
class ReplayedState:
    """Present state according to the events."""

    jobs: dict[int, str] = field(default_factory=dict)  # job id -> state
    deliveries: dict[int, str] = field(default_factory=dict)  # delivery id -> state
    decisions: dict[int, tuple[FactValue, FactValue]] = field(default_factory=dict)  # image id -> view, is_chest
    seals: dict[int, FactValue] = field(default_factory=dict)  # image id -> seal
    scores: dict[tuple[int, str], FactValue] = field(default_factory=dict)  # (job id, finding) -> score
    # (job id, package id, finding) -> score
    shadow_scores: dict[tuple[int, FactValue, str], FactValue] = field(default_factory=dict)
    shadow_changes: dict[int, FactValue] = field(default_factory=dict)  # change id -> package id
    rebuilds: dict[int, str] = field(default_factory=dict)  # rebuild id -> state
    forgotten: set[int] = field(default_factory=set)  # image ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A row that differs from the events; ``id`` is its id, for scores the id of the job."""

    table: str
    id: int


def replay(session: Session) -> ReplayedState:
    """Derive states, decisions, seals and scores from the events, in order."""
    replayed = ReplayedState()
    for event in session.scalars(select(Event).order_by(Event.id).execution_options(yield_per=1000)):
        facts: Mapping[str, FactValue] = json.loads(event.facts)
        if event.delivery_id is not None:
            if "state" in facts:
                replayed.deliveries[event.delivery_id] = str(facts["state"])
        elif event.kind == EventKind.SHADOW_SCORED and event.job_id is not None:
            replayed.shadow_scores |= {(event.job_id, facts["package"], name): score for name, score in _scores(facts)}
        elif event.kind == EventKind.SHADOW_CHANGED:
            replayed.shadow_changes[int(str(facts["change"]))] = facts["package"]
        elif event.kind in (EventKind.REBUILD_STARTED, EventKind.REBUILD_ENDED):
            replayed.rebuilds[int(str(facts["rebuild"]))] = str(facts["state"])
        elif event.job_id is not None and event.report_id is None:
            _replay_job(replayed, event.image_id, event.job_id, facts)
        elif event.kind == EventKind.PATIENT_FORGOTTEN and event.image_id is not None:
            replayed.forgotten.add(event.image_id)
    return replayed


def _replay_job(replayed: ReplayedState, image_id: int | None, job_id: int, facts: Mapping[str, FactValue]) -> None:
    if "state" in facts:
        replayed.jobs[job_id] = str(facts["state"])
    if "seal" in facts and image_id is not None:
        replayed.seals[image_id] = facts["seal"]
        replayed.decisions[image_id] = (facts["view"], facts["is_chest"])
    replayed.scores |= {(job_id, finding): score for finding, score in _scores(facts)}


def _scores(facts: Mapping[str, FactValue]) -> Iterator[tuple[str, FactValue]]:
    for key, value in facts.items():
        if key.startswith(_SCORE):
            yield key.removeprefix(_SCORE), value


def differing_rows(session: Session) -> list[Difference]:
    """Compare the rows with the events.

    Parameters
    ----------
    session
        One read transaction; check the events first with ``db.events.verify_chain``.

    Returns
    -------
    list[Difference]
        Rows that were changed, added or deleted without an event.
    """
    expected = replay(session)
    jobs = {row.id: str(row.state) for row in session.execute(select(Job.id, Job.state))}
    deliveries = {row.id: str(row.state) for row in session.execute(select(Delivery.id, Delivery.state))}
    rows = session.execute(select(Decision.image_id, Decision.view, Decision.is_chest))
    decisions = {row.image_id: (str(row.view), row.is_chest) for row in rows}
    scored = session.execute(select(Score.job_id, Score.finding, Score.score))
    scores = {(row.job_id, row.finding): row.score for row in scored}
    changes = {row.id: row.package_id for row in session.execute(select(ShadowChange.id, ShadowChange.package_id))}
    rebuilds = {row.id: str(row.state) for row in session.execute(select(Rebuild.id, Rebuild.state))}
    return [
        *_differences("job", expected.jobs, jobs),
        *_differences("delivery", expected.deliveries, deliveries),
        *_differences("decision", expected.decisions, decisions),
        *_differences("score", _by_job(expected.scores), _by_job(scores)),
        *_differences("shadow_score", _by_job(expected.shadow_scores), _by_job(_shadow_scores(session))),
        *_differences("shadow_change", expected.shadow_changes, changes),
        *_differences("rebuild", expected.rebuilds, rebuilds),
        *_broken_seals(session, expected),
    ]


def _shadow_scores(session: Session) -> dict[tuple[int, FactValue, str], FactValue]:
    rows = session.execute(
        select(ShadowResult.job_id, ShadowResult.package_id, ShadowScore.finding, ShadowScore.score).join(
            ShadowScore, ShadowScore.shadow_result_id == ShadowResult.id
        )
    )
    return {(row.job_id, row.package_id, row.finding): row.score for row in rows}


def _by_job(scores: Mapping[Any, FactValue]) -> dict[int, dict[tuple[FactValue, ...], FactValue]]:
    """Group scores by job, the first part of each key."""
    grouped: dict[int, dict[tuple[FactValue, ...], FactValue]] = {}
    for (job_id, *rest), score in scores.items():
        grouped.setdefault(job_id, {})[tuple(rest)] = score
    return grouped


def _differences(table: str, expected: Mapping[int, object], rows: Mapping[int, object]) -> Iterator[Difference]:
    for number in sorted(expected.keys() | rows.keys()):
        if number not in expected or number not in rows or expected[number] != rows[number]:
            yield Difference(table=table, id=number)


def _broken_seals(session: Session, expected: ReplayedState) -> Iterator[Difference]:
    """Yield images whose identifiers were changed; those of forgotten images are unknown."""
    images = {image.id: image for image in session.scalars(select(Image))}
    for number in sorted(expected.seals.keys() | images.keys()):
        image = images.get(number)
        if image is None or (number not in expected.forgotten and _seal(image) != expected.seals.get(number)):
            yield Difference(table="image", id=number)


def _seal(image: Image) -> str | None:
    return image.seal_salt and seal(image.seal_salt, sealed_values(image, image.dataset_digest))
