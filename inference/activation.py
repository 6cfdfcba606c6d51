"""Put model packages into service, with a row in the audit database for each time.

The registry comes first: what is in service is what its link says. Killed between the two,
``note_active`` finds at the next start that the database does not know it, and writes it down.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from datetime import datetime

from cxr.package import ModelPackage
from db.engine import Database
from db.packages import list_activations, record_activation
from db.records import Activation
from inference.promotions import Promotion
from inference.registry import Registry

FOUND = "found in service at start"


def account_name() -> str:
    """Return the account that this process runs under: who promotes."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        # A container may run under a number that has no name.
        return f"uid {os.getuid()}"


def promote(
    registry: Registry,
    database: Database,
    fingerprint: str,
    *,
    now: datetime,
    actor: str,
    reason: str,
    accept: Mapping[str, str] | None = None,
) -> ModelPackage:
    """Promote a package and record it; parameters and errors are ``Registry.promote``'s."""
    promotion = registry.promote(fingerprint, now=now, actor=actor, reason=reason, accept=accept)
    return _record(registry, database, promotion)


def rollback(registry: Registry, database: Database, *, now: datetime, actor: str, reason: str) -> ModelPackage:
    """Go back to the package before and record it; parameters and errors are ``Registry.rollback``'s."""
    return _record(registry, database, registry.rollback(now=now, actor=actor, reason=reason))


def note_active(package: ModelPackage, database: Database, *, now: datetime) -> bool:
    """Record the package in service, if the database's latest record is of another one.

    Returns
    -------
    bool
        Whether a record was written.
    """
    with database.begin() as session:
        latest = list_activations(session, limit=1)
        if latest and latest[0].fingerprint == package.fingerprint:
            return False
        record_activation(session, _activation(package, (), actor=account_name(), reason=FOUND, at=now))
        return True


def _record(registry: Registry, database: Database, promotion: Promotion) -> ModelPackage:
    package = registry.load(promotion.fingerprint)
    accepted = tuple(sorted(promotion.accepted))
    with database.begin() as session:
        record_activation(
            session,
            _activation(package, accepted, actor=promotion.actor, reason=promotion.reason, at=promotion.at),
        )
    return package


def _activation(
    package: ModelPackage, accepted: tuple[str, ...], *, actor: str, reason: str, at: datetime
) -> Activation:
    manifest = package.manifest
    return Activation(
        fingerprint=package.fingerprint,
        name=manifest.name,
        version=manifest.version,
        status=manifest.status,
        accepted_gates=accepted,
        actor=actor,
        reason=reason,
        at=at,
    )
