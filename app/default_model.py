"""What a first start serves with: until a trained default exists, a package that says UNTRAINED."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from config.logs import get_logger

from cxr.errors import NoActivePackage

if TYPE_CHECKING:
    from cxr.package import ModelPackage
    from db.engine import Database
    from inference.registry import Registry

log = get_logger(__name__)

REASON = "first start: no model package was in service"


def ensure_active_package(registry: Registry, database: Database, now: datetime) -> ModelPackage:
    """Return the active package; where there is none, build the untrained default and activate it.

    Raises
    ------
    PackageError
        If the active package is damaged or of another version's format.
    """
    try:
        return registry.active()
    except NoActivePackage:
        pass
    from training.export import build_untrained

    log.warning("building_untrained_model")
    return registry.add_and_promote(build_untrained)
