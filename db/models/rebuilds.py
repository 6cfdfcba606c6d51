"""Rebuilds of the model and their outcomes.

Only one rebuild runs at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from cxr.domain import RebuildState
from cxr.errors import MissingRow, StorageError
from db.events import EventKind, append_event
from db.schema.records import FactValue
from db.schema.tables import Rebuild


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildRow:
    """One rebuild."""

    id: int
    due_at: datetime  # time of the schedule; by hand: time of the command
    state: RebuildState
    attempts: int  # started
    run_name: str  # name of its folder
    error_code: str | None
    images: int | None
    new_images: int | None
    fingerprint: str | None
    failed_gates: tuple[str, ...] | None
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of a rebuild; unknown values are None."""

    state: RebuildState
    error_code: str | None = None
    images: int | None = None  # usable labelled images
    new_images: int | None = None  # images among them that no earlier rebuild used
    fingerprint: str | None = None
    failed_gates: Sequence[str] | None = None


def begin(session: Session, *, due_at: datetime, run_name: str, now: datetime) -> RebuildRow:
    """Start a rebuild.

    Returns
    -------
    RebuildRow
        Its row, before the first attempt.

    Raises
    ------
    StorageError
        If another one is running.
    """
    if running(session) is not None:
        raise StorageError("A rebuild is running; only one may run at a time. `cxr rebuild` resumes it.")
    statement = insert(Rebuild).values(
        due_at=due_at, state=RebuildState.RUNNING, attempts=0, run_name=run_name, started_at=now
    )
    number = session.scalars(statement.returning(Rebuild.id)).one()
    facts: dict[str, FactValue] = {"rebuild": number, "state": str(RebuildState.RUNNING)}
    append_event(session, EventKind.REBUILD_STARTED, now=now, facts=facts, seals=(("rebuild", number),))
    return _rows(session, state=RebuildState.RUNNING)[0]


def count_attempt(session: Session, rebuild_id: int, *, by: int = 1) -> int:
    """Count a started attempt; ``by`` -1 uncounts an attempt that was stopped in order.

    Returns
    -------
    int
        Number of started attempts, this one included.
    """
    statement = (
        update(Rebuild)
        .where(Rebuild.id == rebuild_id, Rebuild.state == RebuildState.RUNNING)
        .values(attempts=Rebuild.attempts + by)
        .returning(Rebuild.attempts)
    )
    attempts = session.scalar(statement, execution_options={"synchronize_session": False})
    if attempts is None:
        raise MissingRow(f"Rebuild {rebuild_id} is not under way.")
    return attempts


def end(session: Session, rebuild_id: int, outcome: Outcome, *, now: datetime) -> None:
    """Record the outcome of a rebuild.

    Raises
    ------
    MissingRow
        If it is not running.
    """
    values: dict[str, Any] = {
        "state": outcome.state,
        "error_code": outcome.error_code,
        "images": outcome.images,
        "new_images": outcome.new_images,
        "fingerprint": outcome.fingerprint,
        "failed_gates": None if outcome.failed_gates is None else list(outcome.failed_gates),
        "ended_at": now,
    }
    statement = update(Rebuild).where(Rebuild.id == rebuild_id, Rebuild.state == RebuildState.RUNNING).values(**values)
    if session.scalar(statement.returning(Rebuild.id), execution_options={"synchronize_session": False}) is None:
        raise MissingRow(f"Rebuild {rebuild_id} is not under way.")
    facts: dict[str, FactValue] = {
        "rebuild": rebuild_id,
        "state": str(outcome.state),
        "code": outcome.error_code,
        "images": outcome.images,
        "new_images": outcome.new_images,
        "fingerprint": outcome.fingerprint,
    }
    facts |= {f"failed_{gate}": True for gate in outcome.failed_gates or ()}
    append_event(session, EventKind.REBUILD_ENDED, now=now, facts=facts, seals=(("rebuild", rebuild_id),))


def running(session: Session) -> RebuildRow | None:
    """Return the running rebuild; None: none is running."""
    return next(iter(_rows(session, state=RebuildState.RUNNING)), None)


def latest(session: Session, *, state: RebuildState | None = None) -> RebuildRow | None:
    """Return the latest rebuild by due time, of one state or any; None: there is none."""
    return next(iter(_rows(session, state=state)), None)


def count_by_state(session: Session) -> dict[RebuildState, int]:
    """Return the number of rebuilds in each state, zeros included."""
    counted = session.execute(select(Rebuild.state, func.count()).group_by(Rebuild.state))
    return dict.fromkeys(RebuildState, 0) | dict(counted.all())


def _rows(session: Session, *, state: RebuildState | None) -> list[RebuildRow]:
    query = select(Rebuild).order_by(Rebuild.due_at.desc()).execution_options(populate_existing=True)
    if state is not None:
        query = query.where(Rebuild.state == state)
    return [
        RebuildRow(
            id=row.id,
            due_at=row.due_at,
            state=row.state,
            attempts=row.attempts,
            run_name=row.run_name,
            error_code=row.error_code,
            images=row.images,
            new_images=row.new_images,
            fingerprint=row.fingerprint,
            failed_gates=None if row.failed_gates is None else tuple(row.failed_gates),
            started_at=row.started_at,
            ended_at=row.ended_at,
        )
        for row in session.scalars(query)
    ]
