"""A table of the peers that sent an image again and wait for its result. Nothing that was there is changed."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

RESEND = """
CREATE TABLE resend (
    image_id INTEGER NOT NULL,
    peer_ae_title VARCHAR(16) NOT NULL,
    CONSTRAINT pk_resend PRIMARY KEY (image_id, peer_ae_title),
    CONSTRAINT fk_resend_image_id FOREIGN KEY(image_id) REFERENCES image (id)
)
"""


def upgrade() -> None:
    """Make the table."""
    op.execute(RESEND)
