"""Seals: digests of rows as facts of events, which bind the rows to the event chain.

An event that creates or changes a row contains the row's digest, so that a check detects rows changed without an
event. Constant columns are sealed apart from those that change (`image` from `pixels`, `order` from `delivery`):
otherwise a later event of the row would seal an earlier illegal change.

The digest of a row with patient data includes the image's salt. The salt is deleted when the patient is forgotten;
without it the digest reveals nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from db.schema import statements

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db.sqlite.driver import sqlite3

Row = tuple[str, int]  # subject, id of its row

PREFIX = "row_"

_SALT_OF_REPORT = """(
    SELECT image.seal_salt FROM job_report JOIN job ON job.id = job_report.job_id JOIN image ON image.id = job.image_id
    WHERE job_report.report_id = report.id ORDER BY job_report.rowid LIMIT 1
)"""
_SALT_OF_DELIVERY = """(
    SELECT image.seal_salt FROM job JOIN image ON image.id = job.image_id WHERE job.id = delivery.job_id
)"""

SUBJECTS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        # Subject: its table and the sealed columns. The first statement returns no row if the row is absent.
        "image": (
            "image",
            (
                """
SELECT image.seal_salt, image.sop_class_uid, image.sop_instance_uid, image.study_instance_uid,
    image.series_instance_uid, image.accession_number, image.patient_id, image.study_date, image.modality,
    image.body_part_examined, image.rows, image.columns, image.peer_ae_title, image.transfer_syntax_uid,
    image.size_bytes, image.dataset_digest, image.pixel_digest, image.identity_digest, image.received_at,
    identity.kind, identity.issuer_of_patient_id,
    decision.view, decision.is_chest, decision.reason, decision.evidence, decision.decided_at,
    job.id, job.created_at
FROM image LEFT JOIN identity ON identity.image_id = image.id LEFT JOIN decision ON decision.image_id = image.id
LEFT JOIN job ON job.image_id = image.id WHERE image.id = ?""",
            ),
        ),
        "pixels": ("image", ("SELECT spool_name IS NOT NULL, pixels_removed_at FROM image WHERE id = ?",)),
        "job": (
            "job",
            (
                """
SELECT job.image_id, job.state, job.reason, job.attempts, job.error_code, job.device, job.warnings, job.scored_at,
    package.id, package.fingerprint, package.name, package.version, package.status
FROM job LEFT JOIN package ON package.id = job.package_id WHERE job.id = ?""",
                "SELECT finding, score, threshold FROM score WHERE job_id = ? ORDER BY finding",
                "SELECT report_id FROM job_report WHERE job_id = ? ORDER BY report_id",
            ),
        ),
        "report": (
            "report",
            (
                f"""
SELECT {_SALT_OF_REPORT}, kind, sop_class_uid, sop_instance_uid, series_instance_uid, content_digest, created_at,
    removed_at FROM report WHERE id = ?""",
            ),
        ),
        "order": (
            "delivery",
            ("SELECT report_id, job_id, destination, created_at FROM delivery WHERE id = ?",),
        ),
        "delivery": (
            "delivery",
            (
                f"""
SELECT {_SALT_OF_DELIVERY}, state, attempts, status, error_code, delivered_sop_class_uid, delivered_sop_instance_uid,
    sent_at, verified_at, verified_by, requeued_at FROM delivery WHERE id = ?""",
            ),
        ),
        "package": ("package", ("SELECT fingerprint, name, version, status, first_seen_at FROM package WHERE id = ?",)),
        "activation": (
            "activation",
            ("SELECT package_id, accepted_gates, actor, reason, at FROM activation WHERE id = ?",),
        ),
        "shadow_change": (
            "shadow_change",
            ("SELECT package_id, actor, reason, at FROM shadow_change WHERE id = ?",),
        ),
        "shadow_result": (
            "shadow_result",
            (
                "SELECT job_id, package_id, device, warnings, scored_at FROM shadow_result WHERE id = ?",
                "SELECT finding, score, threshold FROM shadow_score WHERE shadow_result_id = ? ORDER BY finding",
            ),
        ),
        # Attempts of a running rebuild are counted without an event.
        "rebuild": (
            "rebuild",
            (
                """
SELECT due_at, state, CASE WHEN state = 'running' THEN NULL ELSE attempts END, run_name, error_code, images,
    new_images, fingerprint, failed_gates, started_at, ended_at FROM rebuild WHERE id = ?""",
            ),
        ),
        "commitment": (
            "commitment",
            (
                """
SELECT peer_ae_title, state, instances, committed, attempts, error_code, requested_at
FROM commitment WHERE id = ?""",
            ),
        ),
    }
)

UNSEALED: Mapping[str, str] = MappingProxyType(
    {
        # Columns of views that no event seals, with the reason.
        "job.not_before": "a plan: the correction of a clock that was set back moves it without an event",
        "job.updated_at": "as job.not_before; the events say when each thing happened",
        "delivery.due_at": "a plan, as job.not_before",
        "delivery.updated_at": "a plan, as job.not_before; the events say when each thing happened",
        "rebuild.attempts": "counted without an event while a rebuild runs; sealed when it ends",
        "commitment.due_at": "a plan, and while a report is under way a lease",
        "commitment.updated_at": "moves with commitment.due_at; the events say when each thing happened",
    }
)


def facts(session: Session, key: bytes, rows: Sequence[Row]) -> dict[str, str]:
    """Return the digests of the present rows, as facts of an event.

    Parameters
    ----------
    session
        A write transaction, flushed.
    key
        Key of the event chain.
    rows
        Rows to seal.
    """
    digests: dict[str, str] = {}
    for subject, number in rows:
        parts = [statements.send(session, statement, (number,)).fetchall() for statement in SUBJECTS[subject][1]]
        digests[f"{PREFIX}{subject}_{number}"] = _digest(key, subject, number, parts)
    return digests


def rows_of(event_facts: Mapping[str, Any]) -> Iterator[tuple[Row, str]]:
    """Yield the rows sealed by an event, with their digests."""
    for name, digest in event_facts.items():
        if name.startswith(PREFIX):
            subject, _, number = name.removeprefix(PREFIX).rpartition("_")
            yield (subject, int(number)), str(digest)


def stored_digest(connection: sqlite3.Connection, key: bytes, row: Row) -> str | None:
    """Return the digest of a stored row; None: the row is absent.

    Parameters
    ----------
    connection
        Connection to a copy without writers; its ``text_factory`` accepts any bytes.
    key
        Key of the event chain.
    row
        Subject and id.
    """
    subject, number = row
    parts = [connection.execute(statement, (number,)).fetchall() for statement in SUBJECTS[subject][1]]
    return _digest(key, subject, number, parts) if parts[0] else None


def _digest(key: bytes, subject: str, number: int, parts: Sequence[Sequence[Sequence[Any]]]) -> str:
    message = json.dumps(
        [subject, number, [[list(row) for row in part] for part in parts]], separators=(",", ":"), default=repr
    )
    return hmac.new(key, message.encode("ascii"), hashlib.sha256).hexdigest()
