"""Activations: the model packages in service, with time and account."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from cxr.domain import PackageStatus
from db.events import EventKind, append_event
from db.schema.records import Activation, FactValue
from db.schema.tables import Activation as ActivationRow
from db.schema.tables import Package


def record_package(
    session: Session, *, fingerprint: str, name: str, version: str, status: PackageStatus, now: datetime
) -> int:
    """Return the id of a package's row; create the row if it is missing.

    A fingerprint covers weights, recipe and classes. The same fingerprint with another status is a row of its own,
    so that old results keep their status.
    """
    package_id = session.scalar(
        select(Package.id).where(
            Package.fingerprint == fingerprint,
            Package.name == name,
            Package.version == version,
            Package.status == status,
        )
    )
    if package_id is not None:
        return package_id
    statement = insert(Package).values(
        fingerprint=fingerprint, name=name, version=version, status=status, first_seen_at=now
    )
    package_id = session.scalars(statement.returning(Package.id)).one()
    append_event(
        session,
        EventKind.PACKAGE_RECORDED,
        now=now,
        facts={"package": package_id, "fingerprint": fingerprint, "status": str(status)},
        seals=(("package", package_id),),
    )
    return package_id


def record_activation(session: Session, activation: Activation) -> None:
    """Record that a package was put into service.

    Parameters
    ----------
    session
        A write transaction.
    activation
        Package, account, reason and accepted gates.
    """
    package_id = record_package(
        session,
        fingerprint=activation.fingerprint,
        name=activation.name,
        version=activation.version,
        status=activation.status,
        now=activation.at,
    )
    number = session.scalars(
        insert(ActivationRow)
        .values(
            package_id=package_id,
            accepted_gates=list(activation.accepted_gates),
            actor=activation.actor,
            reason=activation.reason,
            at=activation.at,
        )
        .returning(ActivationRow.id)
    ).one()
    facts: dict[str, FactValue] = {
        "fingerprint": activation.fingerprint,
        "status": str(activation.status),
        "package": package_id,
    }
    facts |= {f"accepted_{gate}": True for gate in activation.accepted_gates}
    append_event(session, EventKind.PACKAGE_ACTIVATED, now=activation.at, facts=facts, seals=(("activation", number),))


def list_activations(session: Session, *, limit: int | None = None) -> list[Activation]:
    """Return activations, latest first."""
    rows = session.execute(
        select(ActivationRow, Package)
        .join(Package, Package.id == ActivationRow.package_id)
        .order_by(ActivationRow.id.desc())
        .limit(limit)
    )
    return [
        Activation(
            fingerprint=package.fingerprint,
            name=package.name,
            version=package.version,
            status=package.status,
            accepted_gates=tuple(row.accepted_gates),
            actor=row.actor,
            reason=row.reason,
            at=row.at,
        )
        for row, package in rows
    ]
