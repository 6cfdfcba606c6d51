"""What a first start serves with: until a trained default exists, a package that says UNTRAINED."""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from config.logs import get_logger
from config.native_logs import quiet_tensorflow
from cxr.errors import NoActivePackage
from inference.activation import account_name, note_active, promote
from inference.gates import TRAINED

if TYPE_CHECKING:
    from db.engine import Database
    from inference.registry import Registry

log = get_logger(__name__)

REASON = "first start: no model package was in service"


def ensure_active_package(registry: Registry, database: Database, now: datetime) -> None:
    """Make sure that a package is in service and that the audit database knows it.

    Where there is none, an untrained one is built, in seconds, and put into service.

    Raises
    ------
    PackageError
        If the package in service is damaged or of another version's format.
    """
    try:
        note_active(registry.active(), database, now=now)
    except NoActivePackage:
        _serve_untrained(registry, database, now)


def _serve_untrained(registry: Registry, database: Database, now: datetime) -> None:
    # Before the first import of TensorFlow, which comes with the next one.
    quiet_tensorflow("auto")
    from training.export import build_untrained

    log.warning("building_untrained_model")
    with tempfile.TemporaryDirectory() as folder:
        built = build_untrained(Path(folder) / "untrained", now=now)
        fingerprint = registry.add(built.folder).fingerprint
    if registry.active_fingerprint() is not None:
        # Another worker's first start was quicker.
        return
    promote(
        registry,
        database,
        fingerprint,
        now=now,
        actor=account_name(),
        reason=REASON,
        accept={TRAINED: REASON},
    )
