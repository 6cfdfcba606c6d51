"""Shadow scores, and rebuilds of the model.

Nothing that was there is changed: what the model in service said stays in tables of its own.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE shadow_change (
    id INTEGER NOT NULL,
    package_id INTEGER,
    actor VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    at DATETIME NOT NULL,
    CONSTRAINT pk_shadow_change PRIMARY KEY (id),
    CONSTRAINT fk_shadow_change_package_id FOREIGN KEY(package_id) REFERENCES package (id)
)
""",
    "CREATE INDEX ix_shadow_change_package_id ON shadow_change (package_id)",
    """
CREATE TABLE shadow_result (
    id INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    package_id INTEGER NOT NULL,
    device VARCHAR NOT NULL,
    warnings JSON NOT NULL,
    scored_at DATETIME NOT NULL,
    CONSTRAINT pk_shadow_result PRIMARY KEY (id),
    CONSTRAINT uq_shadow_result_job_id_package_id UNIQUE (job_id, package_id),
    CONSTRAINT fk_shadow_result_job_id FOREIGN KEY(job_id) REFERENCES job (id),
    CONSTRAINT fk_shadow_result_package_id FOREIGN KEY(package_id) REFERENCES package (id)
)
""",
    "CREATE INDEX ix_shadow_result_package_id ON shadow_result (package_id)",
    """
CREATE TABLE shadow_score (
    id INTEGER NOT NULL,
    shadow_result_id INTEGER NOT NULL,
    finding VARCHAR NOT NULL,
    score DOUBLE NOT NULL,
    threshold DOUBLE,
    CONSTRAINT pk_shadow_score PRIMARY KEY (id),
    CONSTRAINT uq_shadow_score_shadow_result_id_finding UNIQUE (shadow_result_id, finding),
    CONSTRAINT fk_shadow_score_shadow_result_id FOREIGN KEY(shadow_result_id) REFERENCES shadow_result (id)
)
""",
    "CREATE INDEX ix_shadow_score_finding_score ON shadow_score (finding, score)",
    """
CREATE TABLE rebuild (
    id INTEGER NOT NULL,
    due_at DATETIME NOT NULL,
    state VARCHAR(16) NOT NULL,
    attempts INTEGER NOT NULL,
    run_name VARCHAR NOT NULL,
    error_code VARCHAR,
    images INTEGER,
    new_images INTEGER,
    fingerprint VARCHAR(64),
    failed_gates JSON,
    started_at DATETIME NOT NULL,
    ended_at DATETIME,
    CONSTRAINT pk_rebuild PRIMARY KEY (id),
    CONSTRAINT uq_rebuild_due_at UNIQUE (due_at),
    CONSTRAINT ck_rebuild_state CHECK (state IN ('running', 'done', 'skipped', 'failed'))
)
""",
    """
CREATE VIEW shadow_scores AS
SELECT
    job.image_id, shadow_result.job_id, shadow_score.finding, shadow_score.score, shadow_score.threshold,
    package.name AS model, package.version AS model_version, package.fingerprint,
    shadow_result.device, shadow_result.warnings, shadow_result.scored_at
FROM shadow_score
JOIN shadow_result ON shadow_result.id = shadow_score.shadow_result_id
JOIN job ON job.id = shadow_result.job_id
JOIN package ON package.id = shadow_result.package_id
""",
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
FROM shadow_score
JOIN shadow_result ON shadow_result.id = shadow_score.shadow_result_id
JOIN package ON package.id = shadow_result.package_id
JOIN job ON job.id = shadow_result.job_id
JOIN image ON image.id = job.image_id
JOIN decision ON decision.image_id = image.id
""",
    """
CREATE VIEW shadow_changes AS
SELECT
    shadow_change.id AS shadow_change_id, shadow_change.at, package.fingerprint, package.name AS model,
    package.version AS model_version, package.status AS model_status,
    shadow_change.actor, shadow_change.reason
FROM shadow_change
LEFT JOIN package ON package.id = shadow_change.package_id
""",
    """
CREATE VIEW rebuilds AS
SELECT
    rebuild.id AS rebuild_id, rebuild.due_at, rebuild.state, rebuild.attempts, rebuild.run_name,
    rebuild.error_code, rebuild.images, rebuild.new_images, rebuild.fingerprint, rebuild.failed_gates,
    rebuild.started_at, rebuild.ended_at
FROM rebuild
""",
)


def upgrade() -> None:
    """Create the tables, their indexes and views."""
    for statement in STATEMENTS:
        op.execute(statement)
