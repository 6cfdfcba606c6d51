"""Put model packages into service or beside it, with a row in the audit database for each time.

The registry comes first: what is in service is what its link says. Killed between the two,
``note_active`` finds at the next start that the database does not know it, and writes it down.
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
from inference.registry.gates import judge_by_status
from inference.registry.promotion_log import Promotion
from inference.registry.registry import Registry, Trial, no_trial

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
    trial: Trial = no_trial,
) -> ModelPackage:
    """Promote a package and record it; parameters and errors are ``Registry.promote``'s."""
    promotion = registry.promote(fingerprint, now=now, actor=actor, reason=reason, accept=accept, trial=trial)
    return _record(registry, database, promotion)


def rollback(
    registry: Registry, database: Database, *, now: datetime, actor: str, reason: str, trial: Trial = no_trial
) -> ModelPackage:
    """Go back to the package before and record it; parameters and errors are ``Registry.rollback``'s."""
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
    """Have a package scored beside the one in service; a running worker takes it up between two batches.

    Its files are verified and its graph looked into, as for a promotion. Its figures are not judged:
    only a gate that nobody may accept, since serving would show the model other images than it knows,
    stops it. Where it is written stands in ``db.jobs.shadow_scores``.

    Parameters
    ----------
    registry, database
        Where the package is, and where the change is recorded.
    fingerprint
        In full.
    now, actor, reason
        When, who and why.
    trial
        As for ``Registry.promote``.

    Raises
    ------
    PackageError
        If it is the package in service.
    DamagedPackage, IncompatiblePackage
        If it can't be served.
    PromotionRefused
        If it needs what serving can't give it.
    """
    package = registry.load(fingerprint)
    check_graph_file(package.model_path)
    if fingerprint == registry.active_fingerprint():
        raise PackageError("This package is in service: a shadow is another one, beside it.")
    final = [gate for gate in judge_by_status(package, None) if not (gate.is_passed or gate.is_acceptable)]
    if final:
        faults = "; ".join(f"gate {gate.name}: {gate.figure} (wanted: {gate.bar})" for gate in final)
        raise PromotionRefused(f"The package can't be served, as a shadow neither. {faults}.")
    trial(package)
    manifest = package.manifest
    shadow = shadow_scores.ShadowPackage(
        fingerprint=package.fingerprint, name=manifest.name, version=manifest.version, status=manifest.status
    )
    with database.begin() as session:
        shadow_scores.change(session, shadow, actor=actor, reason=reason, now=now)
    return package


def end_shadow(database: Database, *, now: datetime, actor: str, reason: str) -> None:
    """Have nothing scored beside the package in service."""
    with database.begin() as session:
        shadow_scores.change(session, None, actor=actor, reason=reason, now=now)


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
