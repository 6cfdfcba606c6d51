"""Forms of identifiers, and Storage Commitment requests of peers.

Nothing that was there is changed.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE identity (
    image_id INTEGER NOT NULL,
    kind VARCHAR(16) NOT NULL,
    issuer_of_patient_id VARCHAR,
    CONSTRAINT pk_identity PRIMARY KEY (image_id),
    CONSTRAINT fk_identity_image_id FOREIGN KEY(image_id) REFERENCES image (id)
)
""",
    """
CREATE TABLE commitment (
    id INTEGER NOT NULL,
    transaction_uid VARCHAR(64) NOT NULL,
    peer_ae_title VARCHAR(16) NOT NULL,
    state VARCHAR(16) NOT NULL,
    instances INTEGER NOT NULL,
    committed INTEGER,
    attempts INTEGER NOT NULL,
    due_at DATETIME,
    error_code VARCHAR,
    requested_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    CONSTRAINT pk_commitment PRIMARY KEY (id),
    CONSTRAINT uq_commitment_peer_ae_title_transaction_uid UNIQUE (peer_ae_title, transaction_uid)
)
""",
    "CREATE INDEX ix_commitment_due_at ON commitment (due_at)",
    """
CREATE TABLE commitment_item (
    id INTEGER NOT NULL,
    commitment_id INTEGER NOT NULL,
    sop_class_uid VARCHAR(64) NOT NULL,
    sop_instance_uid VARCHAR(64) NOT NULL,
    CONSTRAINT pk_commitment_item PRIMARY KEY (id),
    CONSTRAINT fk_commitment_item_commitment_id FOREIGN KEY(commitment_id) REFERENCES commitment (id)
)
""",
    "CREATE INDEX ix_commitment_item_commitment_id ON commitment_item (commitment_id)",
    "CREATE INDEX ix_commitment_item_sop_instance_uid ON commitment_item (sop_instance_uid)",
    """
CREATE TABLE custody (
    image_id INTEGER NOT NULL,
    until DATETIME NOT NULL,
    CONSTRAINT pk_custody PRIMARY KEY (image_id),
    CONSTRAINT fk_custody_image_id FOREIGN KEY(image_id) REFERENCES image (id)
)
""",
    """
CREATE VIEW commitments AS
SELECT
    commitment.id AS commitment_id, commitment.peer_ae_title, commitment.state, commitment.instances,
    commitment.committed, commitment.attempts, commitment.due_at, commitment.error_code,
    commitment.requested_at, commitment.updated_at
FROM commitment
""",
)


def upgrade() -> None:
    """Create the tables, their indexes and the view."""
    for statement in STATEMENTS:
        op.execute(statement)
