"""Views and triggers of the audit database, as SQL created after the tables.

The views are interface: their names and columns change only with a major version. Triggers keep events append-only
and count rows by state.
"""

from __future__ import annotations

from sqlalchemy import DDL, event

from db.schema.tables import Base

_IS_LATEST = """NOT EXISTS (
        SELECT 1 FROM image AS newer
        WHERE newer.sop_instance_uid = image.sop_instance_uid AND newer.id > image.id
    )"""

_DELIVERED = """(
        SELECT min(delivery.state IN ('sent', 'verified'))
        FROM job_report JOIN delivery ON delivery.report_id = job_report.report_id
        WHERE job_report.job_id = job.id
    )"""

VIEWS = {
    # One row per image and finding; an image without scores has one row, finding NULL.
    "results": f"""
SELECT
    image.id AS image_id, job.id AS job_id,
    image.sop_instance_uid, image.study_instance_uid, image.series_instance_uid,
    image.accession_number, image.patient_id, image.study_date, image.modality,
    image.peer_ae_title, image.received_at,
    job.state, decision.view, decision.is_chest, job.reason,
    score.finding, score.score, score.threshold, score.score >= score.threshold AS at_or_above,
    package.name AS model, package.version AS model_version, package.fingerprint,
    package.status AS model_status, job.scored_at, job.error_code,
    {_DELIVERED} AS delivered,
    {_IS_LATEST} AS is_latest
FROM image
JOIN decision ON decision.image_id = image.id
JOIN job ON job.image_id = image.id
LEFT JOIN score ON score.job_id = job.id
LEFT JOIN package ON package.id = job.package_id""",
    # One row per received object; a resend with changed content has a row of its own.
    "images": f"""
SELECT
    image.id AS image_id, image.sop_class_uid,
    image.sop_instance_uid, image.study_instance_uid, image.series_instance_uid,
    image.accession_number, image.patient_id, image.study_date, image.modality,
    image.body_part_examined, image.rows, image.columns,
    image.peer_ae_title, image.transfer_syntax_uid, image.size_bytes, image.received_at,
    image.spool_name IS NOT NULL AS has_pixels, image.pixels_removed_at,
    job.state,
    (SELECT count(*) FROM event WHERE event.image_id = image.id AND event.kind = 'resent') AS resends,
    {_IS_LATEST} AS is_latest
FROM image
JOIN job ON job.image_id = image.id""",
    # One row per image: view decision and its evidence in the header (JSON).
    "decisions": """
SELECT
    image.id AS image_id, image.sop_instance_uid, decision.view, decision.is_chest,
    decision.reason, decision.evidence, decision.decided_at
FROM decision
JOIN image ON image.id = decision.image_id""",
    # One row per image: its job.
    "jobs": """
SELECT
    job.id AS job_id, job.image_id, image.sop_instance_uid, job.state, job.reason, job.attempts,
    job.not_before, job.error_code, job.device, job.warnings, job.scored_at,
    job.created_at, job.updated_at
FROM job
JOIN image ON image.id = job.image_id""",
    # One row per score.
    "scores": """
SELECT
    job.image_id, score.job_id, score.finding, score.score, score.threshold,
    package.name AS model, package.version AS model_version, package.fingerprint
FROM score
JOIN job ON job.id = score.job_id
JOIN package ON package.id = job.package_id""",
    # One row per score of a shadow package.
    "shadow_scores": """
SELECT
    job.image_id, shadow_result.job_id, shadow_score.finding, shadow_score.score, shadow_score.threshold,
    package.name AS model, package.version AS model_version, package.fingerprint,
    shadow_result.device, shadow_result.warnings, shadow_result.scored_at
FROM shadow_score
JOIN shadow_result ON shadow_result.id = shadow_score.shadow_result_id
JOIN job ON job.id = shadow_result.job_id
JOIN package ON package.id = shadow_result.package_id""",
    # The columns of results, one row per score of a shadow package; these are never reported or delivered.
    # CROSS JOIN fixes the join order: queries read the latest images, and would otherwise sort all rows.
    "shadow_results": f"""
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
    {_IS_LATEST} AS is_latest
FROM image
CROSS JOIN job ON job.image_id = image.id
CROSS JOIN shadow_result ON shadow_result.job_id = job.id
CROSS JOIN shadow_score ON shadow_score.shadow_result_id = shadow_result.id
JOIN package ON package.id = shadow_result.package_id
JOIN decision ON decision.image_id = image.id""",
    # One row per change of the shadow package; fingerprint NULL: none from then on.
    "shadow_changes": """
SELECT
    shadow_change.id AS shadow_change_id, shadow_change.at, package.fingerprint, package.name AS model,
    package.version AS model_version, package.status AS model_status,
    shadow_change.actor, shadow_change.reason
FROM shadow_change
LEFT JOIN package ON package.id = shadow_change.package_id""",
    # One row per rebuild of the model, scheduled or manual.
    "rebuilds": """
SELECT
    rebuild.id AS rebuild_id, rebuild.due_at, rebuild.state, rebuild.attempts, rebuild.run_name,
    rebuild.error_code, rebuild.images, rebuild.new_images, rebuild.fingerprint, rebuild.failed_gates,
    rebuild.started_at, rebuild.ended_at
FROM rebuild""",
    # One row per image and report object.
    "reports": """
SELECT
    report.id AS report_id, job.id AS job_id, job.image_id,
    image.sop_instance_uid AS source_sop_instance_uid, image.study_instance_uid,
    report.kind, report.sop_class_uid, report.sop_instance_uid, report.series_instance_uid,
    report.content_digest, report.created_at, report.removed_at
FROM report
JOIN job_report ON job_report.report_id = report.id
JOIN job ON job.id = job_report.job_id
JOIN image ON image.id = job.image_id""",
    # One row per report and destination.
    "deliveries": """
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
JOIN image ON image.id = job.image_id""",
    # One row per event; facts are JSON.
    "events": """
SELECT
    event.id AS event_id, event.at, event.kind, event.image_id, event.job_id, event.report_id,
    event.delivery_id, event.facts, event.hash
FROM event""",
    # One row per model package that was activated, scored an image, or was a shadow package.
    "models": """
SELECT
    package.fingerprint, package.name AS model, package.version AS model_version,
    package.status AS model_status, package.first_seen_at,
    (SELECT max(activation.at) FROM activation WHERE activation.package_id = package.id) AS activated_at,
    (SELECT count(*) FROM job WHERE job.package_id = package.id) AS images
FROM package""",
    # One row per activation of a package.
    "activations": """
SELECT
    activation.id AS activation_id, activation.at, package.fingerprint, package.name AS model,
    package.version AS model_version, package.status AS model_status,
    activation.accepted_gates, activation.actor, activation.reason
FROM activation
JOIN package ON package.id = activation.package_id""",
    # One row per Storage Commitment request of a peer.
    "commitments": """
SELECT
    commitment.id AS commitment_id, commitment.peer_ae_title, commitment.state, commitment.instances,
    commitment.committed, commitment.attempts, commitment.due_at, commitment.error_code,
    commitment.requested_at, commitment.updated_at
FROM commitment""",
}

TRIGGERS = {
    "event_no_update": """
BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'events are never changed');
END""",
    "event_no_delete": """
BEFORE DELETE ON event
BEGIN
    SELECT RAISE(ABORT, 'events are never deleted');
END""",
    # Also prevents INSERT OR REPLACE, which deletes without firing the trigger above.
    "event_in_order": """
BEFORE INSERT ON event
WHEN NEW.id IS NOT (SELECT coalesce(max(id), 0) + 1 FROM event)
BEGIN
    SELECT RAISE(ABORT, 'events are numbered without gaps');
END""",
    # Counting by state reads a few rows, however long the history.
    "job_tally_insert": """
AFTER INSERT ON job
BEGIN
    INSERT INTO tally (subject, state, count) VALUES ('job', NEW.state, 1)
    ON CONFLICT (subject, state) DO UPDATE SET count = count + 1;
END""",
    "job_tally_update": """
AFTER UPDATE OF state ON job
WHEN OLD.state IS NOT NEW.state
BEGIN
    UPDATE tally SET count = count - 1 WHERE subject = 'job' AND state = OLD.state;
    INSERT INTO tally (subject, state, count) VALUES ('job', NEW.state, 1)
    ON CONFLICT (subject, state) DO UPDATE SET count = count + 1;
END""",
    "job_tally_delete": """
AFTER DELETE ON job
BEGIN
    UPDATE tally SET count = count - 1 WHERE subject = 'job' AND state = OLD.state;
END""",
    "delivery_tally_insert": """
AFTER INSERT ON delivery
BEGIN
    INSERT INTO tally (subject, state, count) VALUES ('delivery', NEW.state, 1)
    ON CONFLICT (subject, state) DO UPDATE SET count = count + 1;
END""",
    "delivery_tally_update": """
AFTER UPDATE OF state ON delivery
WHEN OLD.state IS NOT NEW.state
BEGIN
    UPDATE tally SET count = count - 1 WHERE subject = 'delivery' AND state = OLD.state;
    INSERT INTO tally (subject, state, count) VALUES ('delivery', NEW.state, 1)
    ON CONFLICT (subject, state) DO UPDATE SET count = count + 1;
END""",
    "delivery_tally_delete": """
AFTER DELETE ON delivery
BEGIN
    UPDATE tally SET count = count - 1 WHERE subject = 'delivery' AND state = OLD.state;
END""",
}

STATEMENTS = (
    *(f"CREATE VIEW {name} AS{select}" for name, select in VIEWS.items()),
    *(f"CREATE TRIGGER {name}{body}" for name, body in TRIGGERS.items()),
)

for _statement in STATEMENTS:
    event.listen(Base.metadata, "after_create", DDL(_statement))  # type: ignore[no-untyped-call]
