"""Counts of images and deliveries by state, kept as they change.

Nothing that was there is changed.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE tally (
    subject VARCHAR(16) NOT NULL,
    state VARCHAR(16) NOT NULL,
    count INTEGER NOT NULL,
    CONSTRAINT pk_tally PRIMARY KEY (subject, state)
)
""",
    "INSERT INTO tally (subject, state, count) SELECT 'job', state, count(*) FROM job GROUP BY state",
    "INSERT INTO tally (subject, state, count) SELECT 'delivery', state, count(*) FROM delivery GROUP BY state",
    """
CREATE TRIGGER job_tally_insert
AFTER INSERT ON job
BEGIN
    INSERT INTO tally (subject, state, count) VALUES ('job', NEW.state, 1)
    ON CONFLICT (subject, state) DO UPDATE SET count = count + 1;
END
""",
    """
CREATE TRIGGER job_tally_update
AFTER UPDATE OF state ON job
WHEN OLD.state IS NOT NEW.state
BEGIN
    UPDATE tally SET count = count - 1 WHERE subject = 'job' AND state = OLD.state;
    INSERT INTO tally (subject, state, count) VALUES ('job', NEW.state, 1)
    ON CONFLICT (subject, state) DO UPDATE SET count = count + 1;
END
""",
    """
CREATE TRIGGER job_tally_delete
AFTER DELETE ON job
BEGIN
    UPDATE tally SET count = count - 1 WHERE subject = 'job' AND state = OLD.state;
END
""",
    """
CREATE TRIGGER delivery_tally_insert
AFTER INSERT ON delivery
BEGIN
    INSERT INTO tally (subject, state, count) VALUES ('delivery', NEW.state, 1)
    ON CONFLICT (subject, state) DO UPDATE SET count = count + 1;
END
""",
    """
CREATE TRIGGER delivery_tally_update
AFTER UPDATE OF state ON delivery
WHEN OLD.state IS NOT NEW.state
BEGIN
    UPDATE tally SET count = count - 1 WHERE subject = 'delivery' AND state = OLD.state;
    INSERT INTO tally (subject, state, count) VALUES ('delivery', NEW.state, 1)
    ON CONFLICT (subject, state) DO UPDATE SET count = count + 1;
END
""",
    """
CREATE TRIGGER delivery_tally_delete
AFTER DELETE ON delivery
BEGIN
    UPDATE tally SET count = count - 1 WHERE subject = 'delivery' AND state = OLD.state;
END
""",
)


def upgrade() -> None:
    """Create the table, count what there is, and keep counting."""
    for statement in STATEMENTS:
        op.execute(statement)
