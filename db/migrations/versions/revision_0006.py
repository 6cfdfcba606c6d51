"""A table of the peers that sent an image again, and whether they have its result. What was there stays."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE resend (
    image_id INTEGER NOT NULL,
    peer_ae_title VARCHAR(16) NOT NULL,
    brought_at DATETIME,
    CONSTRAINT pk_resend PRIMARY KEY (image_id, peer_ae_title),
    CONSTRAINT fk_resend_image_id FOREIGN KEY(image_id) REFERENCES image (id)
)
""",
    "CREATE INDEX ix_resend_due ON resend (image_id) WHERE brought_at IS NULL",
)


def upgrade() -> None:
    """Make the table."""
    for statement in STATEMENTS:
        op.execute(statement)
