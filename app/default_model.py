"""Put a default model package into service at the first start: a DEMONSTRATION MODEL that comes with the project.

The setting ``worker.default_model`` selects it. A package that was put into service here is replaced here when the
setting changes, or the default changes with an upgrade; a package that a person promoted stays.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from config.logs import get_logger
from config.native_logs import quiet_tensorflow
from config.sections import UNTRAINED_DEFAULT
from cxr.domain import PackageStatus
from cxr.package.scratch import scratch_folder
from cxr.package.shipped import shipped_models
from inference.registry import TRAINED
from inference.registry.activation import account_name, promote, record_active_package

if TYPE_CHECKING:
    from cxr.package.shipped import Shipped
    from db.engine import Database
    from inference.registry import Registry

log = get_logger(__name__)

FIRST_START: Final = "first start: no model package was in service"
DEFAULT_CHANGED: Final = "the default model is another one now (worker.default_model, or an upgrade)"


def ensure_active_package(registry: Registry, database: Database, now: datetime, *, selected: str) -> None:
    """Ensure that a package is in service and recorded in the audit database.

    If there is none, the selected default is expanded and put into service; an installation without its files builds
    an untrained package and logs a warning.

    Parameters
    ----------
    registry, database
        Registry of the package, and the audit database that records its activation.
    now
        Current time; aware.
    selected
        The setting ``worker.default_model``.

    Raises
    ------
    PackageError
        If the package in service, or the default, is damaged or of another version's format.
    """
    shipped = None if selected == UNTRAINED_DEFAULT else shipped_models()
    fingerprint = None if shipped is None else shipped.fingerprints.get(selected)
    if registry.active_fingerprint() is not None and not _is_outdated(registry, fingerprint):
        record_active_package(registry.active(), database, now=now)
    elif shipped is not None and fingerprint is not None:
        _serve_shipped(registry, database, now, shipped, selected)
    else:
        if selected != UNTRAINED_DEFAULT:
            log.warning("no_shipped_model")
        _serve_untrained(registry, database, now)


def _is_outdated(registry: Registry, fingerprint: str | None) -> bool:
    """Return whether the package in service is a former default that no person promoted."""
    active = registry.active_fingerprint()
    promotions = registry.promotions()
    if active == fingerprint or not promotions or promotions[-1].reason not in (FIRST_START, DEFAULT_CHANGED):
        return False
    if promotions[-1].fingerprint != active:
        return False
    return fingerprint is not None or registry.active().manifest.status is not PackageStatus.UNTRAINED


def _serve_shipped(registry: Registry, database: Database, now: datetime, shipped: Shipped, selected: str) -> None:
    before = registry.active_fingerprint()
    with shipped.expanded(selected) as package:
        fingerprint = registry.add(package.folder).fingerprint
    log.info("serving_default_model", model=selected, fingerprint=fingerprint)
    _promote(registry, database, now, fingerprint, before, accept={})


def _serve_untrained(registry: Registry, database: Database, now: datetime) -> None:
    # Has to precede the first import of TensorFlow, in the next line.
    quiet_tensorflow("auto")
    from training.packaging.untrained import build_untrained

    log.warning("building_untrained_model")
    before = registry.active_fingerprint()
    with scratch_folder() as folder:
        built = build_untrained(folder / "untrained", now=now)
        fingerprint = registry.add(built.folder).fingerprint
    _promote(registry, database, now, fingerprint, before, accept={TRAINED: FIRST_START})


def _promote(
    registry: Registry, database: Database, now: datetime, fingerprint: str, before: str | None, accept: dict[str, str]
) -> None:
    if registry.active_fingerprint() != before:
        # Another worker has put a package into service meanwhile.
        return
    reason = FIRST_START if before is None else DEFAULT_CHANGED
    promote(registry, database, fingerprint, now=now, actor=account_name(), reason=reason, accept=accept)
