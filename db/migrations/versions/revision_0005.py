"""Indexes for what is asked all the time of tables that only grow: leases, error codes, files that are still kept.

The view of the shadow's results is read from the latest image on. Nothing that was there is changed.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    "CREATE INDEX ix_image_kept ON image (received_at) WHERE spool_name IS NOT NULL",
    "CREATE INDEX ix_report_kept ON report (created_at) WHERE spool_name IS NOT NULL",
    "CREATE INDEX ix_job_lease_until ON job (lease_until) WHERE lease_until IS NOT NULL",
    "CREATE INDEX ix_job_error_code ON job (error_code) WHERE error_code IS NOT NULL",
    "CREATE INDEX ix_delivery_lease_until ON delivery (lease_until) WHERE lease_until IS NOT NULL",
    "DROP VIEW shadow_results",
    """
CREATE VIEW shadow_results AS
SELECT
    image.id AS image_id, job.id AS job_id,
    image.sop_instance_uid, image.study_instance_uid, image.series_instance_uid,
    image.accession_number, image.patient_id, image.study_date, image.modality,
    image.peer_ae_title, image.received_at,
    job.state, decision.view, decision.is_chest, job.reason,
    shadow_score.finding, shadow_score.score, shadow_score.threshold,
    shadow_score.score >= shadow_score.threshold AS at_or_above,
    package.name AS model, package.version AS model_version, package.fingerprint,
    package.status AS model_status, shadow_result.scored_at, job.error_code,
    NULL AS delivered,
    NOT EXISTS (
        SELECT 1 FROM image AS newer
        WHERE newer.sop_instance_uid = image.sop_instance_uid AND newer.id > image.id
    ) AS is_latest
FROM image
CROSS JOIN job ON job.image_id = image.id
CROSS JOIN shadow_result ON shadow_result.job_id = job.id
CROSS JOIN shadow_score ON shadow_score.shadow_result_id = shadow_result.id
JOIN package ON package.id = shadow_result.package_id
JOIN decision ON decision.image_id = image.id
""",
)


def upgrade() -> None:
    """Make the indexes, and the view anew."""
    for statement in STATEMENTS:
        op.execute(statement)
