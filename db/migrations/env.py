"""What Alembic runs: it migrates over the connection that ``db.sqlite.migrate`` opened, in its transaction."""

from __future__ import annotations

from alembic import context

import db.schema.views  # noqa: F401 (views and triggers belong to the schema)
from db.schema.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
