"""Shadow package: scores every image beside the package in service; its scores are never reported.

The choice of the shadow package is stored only in the database, so that a change and its event are one
transaction. Its scores have tables of their own, separate from ``score``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, select
from sqlalchemy.dialects.sqlite import insert as insert_new
from sqlalchemy.orm import Session

from cxr.domain import PackageStatus, ScoredImage
from db.events import EventKind, append_event
from db.jobs.states import get_job
from db.models import activations
from db.schema.records import FactValue
from db.schema.tables import Package, ShadowChange, ShadowResult, ShadowScore


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPackage:
    """The shadow package."""

    fingerprint: str
    name: str
    version: str
    status: PackageStatus


def change(session: Session, package: ShadowPackage | None, *, actor: str, reason: str, now: datetime) -> None:
    """Change the shadow package.

    Parameters
    ----------
    session
        A write transaction.
    package
        New shadow package; None: none.
    actor, reason
        Account and reason of the change.
    now
        Current time, aware.
    """
    package_id = None
    if package is not None:
        package_id = activations.record_package(
            session,
            fingerprint=package.fingerprint,
            name=package.name,
            version=package.version,
            status=package.status,
            now=now,
        )
    statement = insert(ShadowChange).values(package_id=package_id, actor=actor, reason=reason, at=now)
    number = session.scalars(statement.returning(ShadowChange.id)).one()
    facts: dict[str, FactValue] = {"change": number, "package": package_id}
    facts["fingerprint"] = None if package is None else package.fingerprint
    append_event(session, EventKind.SHADOW_CHANGED, now=now, facts=facts, seals=(("shadow_change", number),))


def current(session: Session) -> ShadowPackage | None:
    """Return the shadow package; None: there is none."""
    latest = session.execute(
        select(ShadowChange.id, Package)
        .outerjoin(Package, Package.id == ShadowChange.package_id)
        .order_by(ShadowChange.id.desc())
        .limit(1)
    ).first()
    if latest is None or latest.Package is None:
        return None
    row = latest.Package
    return ShadowPackage(fingerprint=row.fingerprint, name=row.name, version=row.version, status=row.status)


def write_scores(session: Session, job_id: int, scored: ScoredImage, *, now: datetime) -> bool:
    """Write the shadow's scores of one image.

    Parameters
    ----------
    session
        A write transaction.
    job_id
        The image's job.
    scored
        The shadow's output.
    now
        Current time, aware.

    Returns
    -------
    bool
        False: this package's scores of this image exist already and stay unchanged.

    Raises
    ------
    MissingRow
        If there is no such job.
    """
    job = get_job(session, job_id)
    package_id = activations.record_package(
        session,
        fingerprint=scored.fingerprint,
        name=scored.model_name,
        version=scored.model_version,
        status=scored.status,
        now=now,
    )
    result_id = session.scalar(
        insert_new(ShadowResult)
        .values(
            job_id=job_id,
            package_id=package_id,
            device=scored.device,
            warnings=list(scored.warnings),
            scored_at=scored.scored_at,
        )
        .on_conflict_do_nothing(index_elements=[ShadowResult.job_id, ShadowResult.package_id])
        .returning(ShadowResult.id)
    )
    if result_id is None:
        return False
    rows = [
        {
            "shadow_result_id": result_id,
            "finding": each.finding,
            "score": float(each.score),
            "threshold": each.threshold,
        }
        for each in scored.scores
    ]
    session.execute(insert(ShadowScore), rows)
    facts: dict[str, FactValue] = {"package": package_id, "fingerprint": scored.fingerprint}
    facts |= {f"score_{each.finding}": float(each.score) for each in scored.scores}
    append_event(
        session,
        EventKind.SHADOW_SCORED,
        now=now,
        image_id=job.image_id,
        job_id=job_id,
        facts=facts,
        seals=(("shadow_result", result_id),),
    )
    return True


def give_up(session: Session, fingerprint: str, *, code: str, now: datetime) -> None:
    """Record that a worker stops scoring with the shadow, until it is set again or the worker restarts.

    Parameters
    ----------
    session
        A write transaction.
    fingerprint
        Fingerprint of the shadow.
    code
        Code of the error.
    now
        Current time, aware.
    """
    append_event(session, EventKind.SHADOW_GIVEN_UP, now=now, facts={"fingerprint": fingerprint, "code": code})


def latest_change(session: Session) -> int:
    """Return the id of the latest change; 0: none. Lets a worker notice that the same package was set again."""
    return session.scalar(select(func.max(ShadowChange.id))) or 0
