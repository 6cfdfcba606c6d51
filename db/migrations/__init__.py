"""Alembic's migrations of the audit database; they travel inside the wheel and run through ``db.sqlite.migrate``."""
