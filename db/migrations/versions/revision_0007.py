"""No table changes: from here on events seal the rows, and the upgrade seals those that are there (`db.engine`)."""

from __future__ import annotations

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change nothing."""
