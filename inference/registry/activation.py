"""Activate model packages and shadows, and record each change in the audit database.

The registry is changed first: its link names the package in service. If the process is killed before the
database is written, ``record_active_package`` adds the missing record at the next start.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from datetime import datetime

from cxr.errors import PackageError, PromotionRefused
from cxr.package import ModelPackage
from db.engine import Database
from db.jobs import shadow_scores
from db.models import list_activations, record_activation
from db.schema.records import Activation
from inference.model.graph_file import check_graph_file
from inference.registry.gates import check_status_gates
from inference.registry.promotion_log import Promotion
from inference.registry.registry import Registry, Trial, no_trial

FOUND_AT_START = "found in service at start"


def account_name() -> str:
    """Return the account that this process runs under, as the actor of a promotion."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        # A container may run under a UID without a name.
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
    trial: Trial = no_trial,
) -> ModelPackage:
    """Promote a package and record it; parameters and errors as of ``Registry.promote``."""
    promotion = registry.promote(fingerprint, now=now, actor=actor, reason=reason, accept=accept, trial=trial)
    return _record(registry, database, promotion)


def rollback(
    registry: Registry, database: Database, *, now: datetime, actor: str, reason: str, trial: Trial = no_trial
) -> ModelPackage:
    """Return to the previous package and record it; parameters and errors as of ``Registry.rollback``."""
    return _record(registry, database, registry.rollback(now=now, actor=actor, reason=reason, trial=trial))


def set_shadow(
    registry: Registry,
    database: Database,
    fingerprint: str,
    *,
    now: datetime,
    actor: str,
    reason: str,
    trial: Trial = no_trial,
) -> ModelPackage:
    """Set the shadow: a package that scores beside the one in service. A running worker loads it between two batches.

    Files and graph are checked as for a promotion. Its evaluation is not checked; only a gate that can't be
    accepted (the service could not prepare images as in training) refuses it. The change is stored by
    ``db.jobs.shadow_scores``.

    Parameters
    ----------
    registry, database
        Registry that holds the package; audit database that records the change.
    fingerprint
        Full fingerprint of the package.
    now, actor, reason
        Time, account and reason of the change.
    trial
        As for ``Registry.promote``.

    Raises
    ------
    PackageError
        If the package is the one in service.
    DamagedPackage, IncompatiblePackage
        If the package can't be served.
    PromotionRefused
        If a gate fails that can't be accepted.
    """
    package = registry.load(fingerprint)
    check_graph_file(package.model_path)
    if fingerprint == registry.active_fingerprint():
        raise PackageError("This package is in service already: choose another package as the shadow.")
    final = [gate for gate in check_status_gates(package, None) if not (gate.is_passed or gate.is_acceptable)]
    if final:
        faults = "; ".join(f"gate {gate.name}: {gate.figure} (required: {gate.requirement})" for gate in final)
        raise PromotionRefused(f"The package can't be served, not even as a shadow. {faults}.")
    trial(package)
    manifest = package.manifest
    shadow = shadow_scores.ShadowPackage(
        fingerprint=package.fingerprint, name=manifest.name, version=manifest.version, status=manifest.status
    )
    with database.begin() as session:
        shadow_scores.change(session, shadow, actor=actor, reason=reason, now=now)
    return package


def end_shadow(database: Database, *, now: datetime, actor: str, reason: str) -> None:
    """Remove the shadow."""
    with database.begin() as session:
        shadow_scores.change(session, None, actor=actor, reason=reason, now=now)


def record_active_package(package: ModelPackage, database: Database, *, now: datetime) -> bool:
    """Record the package in service, unless it is the database's latest record.

    Returns
    -------
    bool
        Whether a record was written.
    """
    with database.begin() as session:
        latest = list_activations(session, limit=1)
        if latest and latest[0].fingerprint == package.fingerprint:
            return False
        record_activation(session, _activation(package, (), actor=account_name(), reason=FOUND_AT_START, at=now))
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
