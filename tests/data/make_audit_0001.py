"""Write audit_0001.sql anew, to standard output: an audit database as the version with schema 0001 left it.

Run it in a checkout of that version (the parent of the commit that added revision_0002.py); its
rows and events are that version's own. Everything is synthetic.
"""

from __future__ import annotations

import hashlib
import sqlite3
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cxr.domain import ImageHeader, JobState, PackageStatus, Score, ScoredImage, View, ViewDecision
from db import deliveries, engine, images, jobs
from db.engine import Database
from db.models import record_activation
from db.schema.records import Activation, Receipt, ReportRecord
from db.sqlite import migrate

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
KEY = "0001" * 16  # the chain's key, which tests need to open it
FINGERPRINT = hashlib.sha256(b"package").hexdigest()


def receipt(seed: int, content: int = 0, state: JobState = JobState.QUEUED) -> Receipt:
    """Make the receipt of a synthetic object."""
    frontal = state is not JobState.NOT_SCORED
    reason = "view_position_frontal" if frontal else "view_position_not_frontal"
    return Receipt(
        header=ImageHeader(
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
            sop_instance_uid=f"1.2.3.{seed}",
            study_instance_uid=f"1.2.4.{seed}",
            series_instance_uid=f"1.2.5.{seed}",
            accession_number=f"ACC{seed}",
            patient_id=f"SYN{seed}",
            identity_digest=f"{seed:064x}",
        ),
        decision=ViewDecision(
            view=View.FRONTAL if frontal else View.NOT_FRONTAL, is_chest=True, reason=reason, evidence={}
        ),
        initial_state=state,
        reason=reason,
        peer_ae_title="MODALITY",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        size_bytes=1000,
        dataset_digest=f"{seed:062x}{content:02x}",
        pixel_digest=f"{seed:062x}{content:02x}",
        spool_name=f"{seed:031x}{content:01x}.dcm" if frontal else None,
        received_at=NOON,
    )


def score(database: Database, seed: int) -> None:
    """Score one queued image, with a report to one destination."""
    report = ReportRecord(
        kind="sr",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        sop_instance_uid=f"2.25.{seed}1",
        series_instance_uid=f"2.25.{seed}2",
        spool_name=f"sr{seed:030x}.dcm",
        content_digest=f"{seed:064x}",
        created_at=NOON,
    )
    scored = ScoredImage(
        scores=(
            Score(finding="covid19", score=seed / 7, threshold=0.5),
            Score(finding="normal", score=0.9, threshold=None),
        ),
        model_name="resnet50",
        model_version="1.0.0",
        fingerprint=FINGERPRINT,
        status=PackageStatus.EVALUATED,
        scored_at=NOON,
        device="cpu",
        warnings=("aspect",),
    )
    with database.begin() as session:
        (job,) = jobs.claim(session, worker_id="w", limit=1, now=NOON, lease_s=60)
        jobs.finish(session, job.id, worker_id="w", scored=scored, reports=[report], destinations=["pacs"], now=NOON)


def fill(database: Database) -> None:
    """Let happen what happens in a service's first hour."""
    activation = Activation(
        fingerprint=FINGERPRINT,
        name="resnet50",
        version="1.0.0",
        status=PackageStatus.EVALUATED,
        accepted_gates=("subgroups",),
        actor="cxr",
        reason="first",
        at=NOON,
    )
    with database.begin() as session:
        record_activation(session, activation)
    for seed, content in ((1, 0), (1, 1), (2, 0)):
        with database.begin() as session:
            images.receive(session, receipt(seed, content), now=NOON)
        score(database, 2 * seed + content)
    with database.begin() as session:
        (first, *_) = deliveries.list_deliveries(session)
        deliveries.give_up(session, first.id, code="peer_refused", status=0xA900, now=NOON)
    for seed, state in ((3, JobState.NOT_SCORED), (4, JobState.HELD), (5, JobState.QUEUED), (6, JobState.QUEUED)):
        with database.begin() as session:
            images.receive(session, receipt(seed, state=state), now=NOON)
    with database.begin() as session:
        (job,) = jobs.claim(session, worker_id="w", limit=1, now=NOON + timedelta(minutes=1), lease_s=60)
        jobs.fail(
            session,
            job.id,
            worker_id="w",
            code="damaged_pixels",
            retryable=False,
            max_attempts=1,
            retry_s=1,
            now=NOON,
        )


def main() -> None:
    """Make the database, fill it, and write it as SQL."""
    if migrate.newest_revision() != "0001":
        sys.exit("This version's schema is newer: run this in a checkout of the version with schema 0001.")
    with tempfile.TemporaryDirectory() as folder:
        path, key = Path(folder) / "data" / "audit.sqlite", Path(folder) / "audit.key"
        key.touch(mode=0o600)
        key.write_text(KEY)
        database = engine.open_database(path, key, create=True, now=NOON)
        fill(database)
        database.dispose()
        connection = sqlite3.connect(path)
        sys.stdout.writelines(f"{line}\n" for line in connection.iterdump())
        connection.close()


if __name__ == "__main__":
    main()
