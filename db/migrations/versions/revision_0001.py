"""The first schema of the audit database.

The statements are frozen: a later change of the schema is a migration of its own.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE event (
    id INTEGER NOT NULL,
    at DATETIME NOT NULL,
    kind VARCHAR(32) NOT NULL,
    image_id INTEGER,
    job_id INTEGER,
    report_id INTEGER,
    delivery_id INTEGER,
    facts VARCHAR NOT NULL,
    hash VARCHAR(64) NOT NULL,
    CONSTRAINT pk_event PRIMARY KEY (id)
)
""",
    "CREATE INDEX ix_event_at ON event (at)",
    "CREATE INDEX ix_event_image_id ON event (image_id)",
    """
CREATE TABLE image (
    id INTEGER NOT NULL,
    sop_class_uid VARCHAR(64) NOT NULL,
    sop_instance_uid VARCHAR(64) NOT NULL,
    study_instance_uid VARCHAR(64),
    series_instance_uid VARCHAR(64),
    accession_number VARCHAR,
    patient_id VARCHAR,
    study_date VARCHAR,
    modality VARCHAR,
    body_part_examined VARCHAR,
    rows INTEGER,
    columns INTEGER,
    peer_ae_title VARCHAR(16) NOT NULL,
    transfer_syntax_uid VARCHAR(64) NOT NULL,
    size_bytes INTEGER NOT NULL,
    dataset_digest VARCHAR(64) NOT NULL,
    pixel_digest VARCHAR(64),
    identity_digest VARCHAR(64) NOT NULL,
    spool_name VARCHAR,
    pixels_removed_at DATETIME,
    seal_salt VARCHAR,
    received_at DATETIME NOT NULL,
    CONSTRAINT pk_image PRIMARY KEY (id),
    CONSTRAINT uq_image_spool_name UNIQUE (spool_name)
)
""",
    "CREATE INDEX ix_image_accession_number ON image (accession_number)",
    "CREATE INDEX ix_image_patient_id ON image (patient_id)",
    "CREATE INDEX ix_image_received_at ON image (received_at)",
    "CREATE INDEX ix_image_sop_instance_uid ON image (sop_instance_uid)",
    "CREATE INDEX ix_image_study_instance_uid ON image (study_instance_uid)",
    """
CREATE TABLE lease (
    name VARCHAR(32) NOT NULL,
    holder VARCHAR NOT NULL,
    expires_at DATETIME NOT NULL,
    CONSTRAINT pk_lease PRIMARY KEY (name)
)
""",
    """
CREATE TABLE package (
    id INTEGER NOT NULL,
    fingerprint VARCHAR(64) NOT NULL,
    name VARCHAR NOT NULL,
    version VARCHAR NOT NULL,
    status VARCHAR(16) NOT NULL,
    first_seen_at DATETIME NOT NULL,
    CONSTRAINT pk_package PRIMARY KEY (id),
    CONSTRAINT uq_package_fingerprint_name_version_status UNIQUE (fingerprint, name, version, status),
    CONSTRAINT ck_package_status CHECK (status IN ('untrained', 'demonstration', 'evaluated'))
)
""",
    """
CREATE TABLE report (
    id INTEGER NOT NULL,
    kind VARCHAR(16) NOT NULL,
    sop_class_uid VARCHAR(64) NOT NULL,
    sop_instance_uid VARCHAR(64) NOT NULL,
    series_instance_uid VARCHAR(64) NOT NULL,
    spool_name VARCHAR,
    content_digest VARCHAR(64) NOT NULL,
    created_at DATETIME NOT NULL,
    removed_at DATETIME,
    CONSTRAINT pk_report PRIMARY KEY (id),
    CONSTRAINT uq_report_sop_instance_uid UNIQUE (sop_instance_uid),
    CONSTRAINT uq_report_spool_name UNIQUE (spool_name)
)
""",
    "CREATE INDEX ix_report_created_at ON report (created_at)",
    """
CREATE TABLE activation (
    id INTEGER NOT NULL,
    package_id INTEGER NOT NULL,
    accepted_gates JSON NOT NULL,
    actor VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    at DATETIME NOT NULL,
    CONSTRAINT pk_activation PRIMARY KEY (id),
    CONSTRAINT fk_activation_package_id FOREIGN KEY(package_id) REFERENCES package (id)
)
""",
    "CREATE INDEX ix_activation_package_id ON activation (package_id)",
    """
CREATE TABLE decision (
    image_id INTEGER NOT NULL,
    "view" VARCHAR(16) NOT NULL,
    is_chest BOOLEAN,
    reason VARCHAR NOT NULL,
    evidence JSON NOT NULL,
    decided_at DATETIME NOT NULL,
    CONSTRAINT pk_decision PRIMARY KEY (image_id),
    CONSTRAINT fk_decision_image_id FOREIGN KEY(image_id) REFERENCES image (id),
    CONSTRAINT ck_decision_view CHECK ("view" IN ('frontal', 'not_frontal', 'unknown'))
)
""",
    """
CREATE TABLE job (
    id INTEGER NOT NULL,
    image_id INTEGER NOT NULL,
    state VARCHAR(16) NOT NULL,
    reason VARCHAR NOT NULL,
    attempts INTEGER NOT NULL,
    not_before DATETIME,
    worker_id VARCHAR,
    lease_until DATETIME,
    error_code VARCHAR,
    package_id INTEGER,
    device VARCHAR,
    warnings JSON,
    scored_at DATETIME,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    CONSTRAINT pk_job PRIMARY KEY (id),
    CONSTRAINT uq_job_image_id UNIQUE (image_id),
    CONSTRAINT fk_job_image_id FOREIGN KEY(image_id) REFERENCES image (id),
    CONSTRAINT ck_job_state CHECK (state IN ('held', 'queued', 'scoring', 'reported', 'not_scored', 'failed')),
    CONSTRAINT fk_job_package_id FOREIGN KEY(package_id) REFERENCES package (id)
)
""",
    "CREATE INDEX ix_job_package_id ON job (package_id)",
    "CREATE INDEX ix_job_state ON job (state)",
    """
CREATE TABLE delivery (
    id INTEGER NOT NULL,
    report_id INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    destination VARCHAR(32) NOT NULL,
    state VARCHAR(16) NOT NULL,
    attempts INTEGER NOT NULL,
    due_at DATETIME,
    sender_id VARCHAR,
    lease_until DATETIME,
    status INTEGER,
    error_code VARCHAR,
    delivered_sop_class_uid VARCHAR(64),
    delivered_sop_instance_uid VARCHAR(64),
    sent_at DATETIME,
    verified_at DATETIME,
    verified_by VARCHAR,
    requeued_at DATETIME,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    CONSTRAINT pk_delivery PRIMARY KEY (id),
    CONSTRAINT uq_delivery_report_id_destination UNIQUE (report_id, destination),
    CONSTRAINT fk_delivery_report_id FOREIGN KEY(report_id) REFERENCES report (id),
    CONSTRAINT fk_delivery_job_id FOREIGN KEY(job_id) REFERENCES job (id),
    CONSTRAINT ck_delivery_state CHECK (state IN ('pending', 'sent', 'verified', 'dead'))
)
""",
    "CREATE INDEX ix_delivery_destination_due_at ON delivery (destination, due_at)",
    "CREATE INDEX ix_delivery_job_id ON delivery (job_id)",
    "CREATE INDEX ix_delivery_state ON delivery (state)",
    """
CREATE TABLE job_report (
    job_id INTEGER NOT NULL,
    report_id INTEGER NOT NULL,
    CONSTRAINT pk_job_report PRIMARY KEY (job_id, report_id),
    CONSTRAINT fk_job_report_job_id FOREIGN KEY(job_id) REFERENCES job (id),
    CONSTRAINT fk_job_report_report_id FOREIGN KEY(report_id) REFERENCES report (id)
)
""",
    "CREATE INDEX ix_job_report_report_id ON job_report (report_id)",
    """
CREATE TABLE score (
    id INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    finding VARCHAR NOT NULL,
    score DOUBLE NOT NULL,
    threshold DOUBLE,
    CONSTRAINT pk_score PRIMARY KEY (id),
    CONSTRAINT uq_score_job_id_finding UNIQUE (job_id, finding),
    CONSTRAINT fk_score_job_id FOREIGN KEY(job_id) REFERENCES job (id)
)
""",
    "CREATE INDEX ix_score_finding_score ON score (finding, score)",
    """
CREATE VIEW results AS
SELECT
    image.id AS image_id, job.id AS job_id,
    image.sop_instance_uid, image.study_instance_uid, image.series_instance_uid,
    image.accession_number, image.patient_id, image.study_date, image.modality,
    image.peer_ae_title, image.received_at,
    job.state, decision.view, decision.is_chest, job.reason,
    score.finding, score.score, score.threshold, score.score >= score.threshold AS at_or_above,
    package.name AS model, package.version AS model_version, package.fingerprint,
    package.status AS model_status, job.scored_at, job.error_code,
    (
        SELECT min(delivery.state IN ('sent', 'verified'))
        FROM job_report JOIN delivery ON delivery.report_id = job_report.report_id
        WHERE job_report.job_id = job.id
    ) AS delivered,
    NOT EXISTS (
        SELECT 1 FROM image AS newer
        WHERE newer.sop_instance_uid = image.sop_instance_uid AND newer.id > image.id
    ) AS is_latest
FROM image
JOIN decision ON decision.image_id = image.id
JOIN job ON job.image_id = image.id
LEFT JOIN score ON score.job_id = job.id
LEFT JOIN package ON package.id = job.package_id
""",
    """
CREATE VIEW images AS
SELECT
    image.id AS image_id, image.sop_class_uid,
    image.sop_instance_uid, image.study_instance_uid, image.series_instance_uid,
    image.accession_number, image.patient_id, image.study_date, image.modality,
    image.body_part_examined, image.rows, image.columns,
    image.peer_ae_title, image.transfer_syntax_uid, image.size_bytes, image.received_at,
    image.spool_name IS NOT NULL AS has_pixels, image.pixels_removed_at,
    job.state,
    (SELECT count(*) FROM event WHERE event.image_id = image.id AND event.kind = 'resent') AS resends,
    NOT EXISTS (
        SELECT 1 FROM image AS newer
        WHERE newer.sop_instance_uid = image.sop_instance_uid AND newer.id > image.id
    ) AS is_latest
FROM image
JOIN job ON job.image_id = image.id
""",
    """
CREATE VIEW decisions AS
SELECT
    image.id AS image_id, image.sop_instance_uid, decision.view, decision.is_chest,
    decision.reason, decision.evidence, decision.decided_at
FROM decision
JOIN image ON image.id = decision.image_id
""",
    """
CREATE VIEW jobs AS
SELECT
    job.id AS job_id, job.image_id, image.sop_instance_uid, job.state, job.reason, job.attempts,
    job.not_before, job.error_code, job.device, job.warnings, job.scored_at,
    job.created_at, job.updated_at
FROM job
JOIN image ON image.id = job.image_id
""",
    """
CREATE VIEW scores AS
SELECT
    job.image_id, score.job_id, score.finding, score.score, score.threshold,
    package.name AS model, package.version AS model_version, package.fingerprint
FROM score
JOIN job ON job.id = score.job_id
JOIN package ON package.id = job.package_id
""",
    """
CREATE VIEW reports AS
SELECT
    report.id AS report_id, job.id AS job_id, job.image_id,
    image.sop_instance_uid AS source_sop_instance_uid, image.study_instance_uid,
    report.kind, report.sop_class_uid, report.sop_instance_uid, report.series_instance_uid,
    report.content_digest, report.created_at, report.removed_at
FROM report
JOIN job_report ON job_report.report_id = report.id
JOIN job ON job.id = job_report.job_id
JOIN image ON image.id = job.image_id
""",
    """
CREATE VIEW deliveries AS
SELECT
    delivery.id AS delivery_id, delivery.report_id, delivery.job_id, job.image_id,
    image.sop_instance_uid AS source_sop_instance_uid, image.study_instance_uid,
    coalesce(delivery.delivered_sop_instance_uid, report.sop_instance_uid) AS sop_instance_uid,
    delivery.destination, delivery.state, delivery.attempts, delivery.due_at,
    delivery.status, delivery.error_code, delivery.sent_at, delivery.verified_at,
    delivery.verified_by, delivery.created_at, delivery.updated_at
FROM delivery
JOIN report ON report.id = delivery.report_id
JOIN job ON job.id = delivery.job_id
JOIN image ON image.id = job.image_id
""",
    """
CREATE VIEW events AS
SELECT
    event.id AS event_id, event.at, event.kind, event.image_id, event.job_id, event.report_id,
    event.delivery_id, event.facts, event.hash
FROM event
""",
    """
CREATE VIEW models AS
SELECT
    package.fingerprint, package.name AS model, package.version AS model_version,
    package.status AS model_status, package.first_seen_at,
    (SELECT max(activation.at) FROM activation WHERE activation.package_id = package.id) AS activated_at,
    (SELECT count(*) FROM job WHERE job.package_id = package.id) AS images
FROM package
""",
    """
CREATE VIEW activations AS
SELECT
    activation.id AS activation_id, activation.at, package.fingerprint, package.name AS model,
    package.version AS model_version, package.status AS model_status,
    activation.accepted_gates, activation.actor, activation.reason
FROM activation
JOIN package ON package.id = activation.package_id
""",
    """
CREATE TRIGGER event_no_update
BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'events are never changed');
END
""",
    """
CREATE TRIGGER event_no_delete
BEFORE DELETE ON event
BEGIN
    SELECT RAISE(ABORT, 'events are never deleted');
END
""",
    """
CREATE TRIGGER event_in_order
BEFORE INSERT ON event
WHEN NEW.id IS NOT (SELECT coalesce(max(id), 0) + 1 FROM event)
BEGIN
    SELECT RAISE(ABORT, 'events are numbered without gaps');
END
""",
)


def upgrade() -> None:
    """Create every table, index, view and trigger."""
    for statement in STATEMENTS:
        op.execute(statement)
