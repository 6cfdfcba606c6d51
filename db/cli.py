"""``cxr audit``, ``cxr jobs`` and ``cxr db``: what people ask of the audit database and tell the queue."""

from __future__ import annotations

from db.audit_cli import audit_app
from db.forget_cli import forget
from db.jobs_cli import jobs_app
from db.upkeep_cli import db_app

__all__ = ["audit_app", "db_app", "jobs_app"]

audit_app.command()(forget)
