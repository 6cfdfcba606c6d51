"""Commands ``cxr audit``, ``cxr jobs`` and ``cxr db``."""

from __future__ import annotations

from db.cli.audit import audit_app
from db.cli.database import db_app
from db.cli.forget import forget
from db.cli.jobs import jobs_app

__all__ = ["audit_app", "db_app", "jobs_app"]

audit_app.command()(forget)
