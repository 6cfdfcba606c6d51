"""What unit tests share: an installation with an audit database and a spool that really hold something."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from config.settings import Settings
from cxr.domain import (
    DeliveryState,
    ImageHeader,
    JobState,
    PackageStatus,
    Score,
    ScoredImage,
    View,
    ViewDecision,
)
from db import deliveries, images, jobs
from db.disk import Spool
from db.engine import Database, open_database
from db.schema.records import Receipt, Received, ReportRecord
from db.schema.tables import Image

START = datetime(2026, 1, 10, 12, 0, 0, 250_000, tzinfo=UTC)
FINGERPRINT = hashlib.sha256(b"package").hexdigest()


@dataclass
class AuditSite:
    """An installation of its own; ``now`` is its clock."""

    settings: Settings
    database: Database
    spool: Spool
    now: datetime = START

    def later(self, **by: float) -> datetime:
        self.now += timedelta(**by)
        return self.now

    def receive(
        self,
        seed: int,
        *,
        state: JobState = JobState.QUEUED,
        view: View = View.FRONTAL,
        reason: str = "view_position_frontal",
        peer: str = "ORTHANC",
        accession_number: str | None = None,
        patient_id: str | None = None,
        content: bytes = b"pixels",
    ) -> Received:
        """Take in one object as the listener does; its UIDs follow from the seed, its digests also from its content."""
        keeps_pixels = state is not JobState.NOT_SCORED
        name = None
        with self.spool.open_incoming() as incoming:
            incoming.write_header(b"\0" * 128 + b"DICM")
            incoming.write(content + str(seed).encode())
            if keeps_pixels:
                name = self.spool.keep(incoming)
        receipt = Receipt(
            header=ImageHeader(
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
                sop_instance_uid=sop_instance_uid(seed),
                study_instance_uid=generate_uid(entropy_srcs=["study", str(seed)]),
                series_instance_uid=generate_uid(entropy_srcs=["series", str(seed)]),
                accession_number=accession_number or f"ACC{seed}",
                patient_id=patient_id or f"SYN{seed}",
                study_date="20260110",
                modality="CR",
                body_part_examined="CHEST",
                rows=64,
                columns=48,
                identity_digest=hashlib.sha256(str(seed).encode()).hexdigest(),
            ),
            decision=ViewDecision(view=view, is_chest=True, reason=reason, evidence={"ViewPosition": "PA"}),
            initial_state=state,
            reason=reason,
            peer_ae_title=peer,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            size_bytes=incoming.size,
            dataset_digest=incoming.digest,
            pixel_digest=incoming.digest,
            spool_name=name,
            received_at=self.now,
        )
        with self.database.begin() as session:
            received = images.receive(session, receipt, now=self.now, is_lost=self.spool.is_lost)
        if received.outcome == "resent" and name is not None and not received.is_restored:
            self.spool.remove(name)
        return received

    def score(
        self,
        *,
        scores: dict[str, float] | None = None,
        destinations: Sequence[str] = (),
        fingerprint: str = FINGERPRINT,
        model: str = "resnet50",
    ) -> list[int]:
        """Score everything that waits, as a worker does; returns the jobs."""
        with self.database.begin() as session:
            claimed = jobs.claim(session, worker_id="worker", limit=1000, now=self.now, lease_s=120)
            for job in claimed:
                report = ReportRecord(
                    kind="sr",
                    sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
                    sop_instance_uid=generate_uid(entropy_srcs=["report", str(job.id)]),
                    series_instance_uid=generate_uid(entropy_srcs=["report series", str(job.id)]),
                    spool_name=self.spool.write(b"report", suffix=".dcm"),
                    content_digest=hashlib.sha256(b"report").hexdigest(),
                    created_at=self.now,
                )
                found = scores or {"covid19": job.id / 100, "normal": 1 - job.id / 100}
                scored = ScoredImage(
                    scores=tuple(
                        Score(finding=finding, score=score, threshold=0.5) for finding, score in found.items()
                    ),
                    model_name=model,
                    model_version="1.0.0",
                    fingerprint=fingerprint,
                    status=PackageStatus.UNTRAINED,
                    scored_at=self.now,
                    device="cpu",
                )
                jobs.finish(
                    session,
                    job.id,
                    worker_id="worker",
                    scored=scored,
                    reports=[report],
                    destinations=destinations,
                    now=self.now,
                )
        return [job.id for job in claimed]

    def fail(self) -> list[int]:
        """Fail everything that waits, for good."""
        with self.database.begin() as session:
            claimed = jobs.claim(session, worker_id="worker", limit=1000, now=self.now, lease_s=120)
            for job in claimed:
                jobs.fail(
                    session,
                    job.id,
                    worker_id="worker",
                    code="damaged_pixels",
                    retryable=False,
                    max_attempts=3,
                    retry_s=30,
                    now=self.now,
                )
        return [job.id for job in claimed]

    def deliver(self, *, outcome: DeliveryState, verify_at: datetime | None = None) -> None:
        """Bring every pending delivery to an outcome: sent, verified or dead."""
        with self.database.begin() as session:
            for delivery in deliveries.list_deliveries(session, state=DeliveryState.PENDING):
                if outcome is DeliveryState.DEAD:
                    deliveries.give_up(session, delivery.id, code="peer_refused", status=0xA900, now=self.now)
                    continue
                deliveries.mark_sent(
                    session,
                    delivery.id,
                    status=0,
                    sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
                    sop_instance_uid=generate_uid(entropy_srcs=["delivered", str(delivery.id)]),
                    verify_at=verify_at,
                    now=self.now,
                )
                if outcome is DeliveryState.VERIFIED:
                    deliveries.mark_verified(session, delivery.id, verified_by="c_find", now=self.now)

    def pixels(self, received: Received) -> Path | None:
        """The file of an image, if a row says that there is one."""
        with self.database.read() as session:
            name = session.get_one(Image, received.image_id).spool_name
        return None if name is None else self.spool.path(name)


def sop_instance_uid(seed: int) -> str:
    return str(generate_uid(entropy_srcs=["instance", str(seed)]))


@pytest.fixture(scope="session")
def new_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation that has just been started: made once, copied for each test."""
    folder = tmp_path_factory.mktemp("site")
    settings = Settings(data_dir=folder / "var")
    open_database(settings.database_path, settings.audit_key_path, create=True, now=START).dispose()
    Spool(settings.spool_dir, min_free_mib=0).prepare()
    return folder


@pytest.fixture
def audit_site(tmp_path: Path, new_site: Path) -> Iterator[AuditSite]:
    """An installation of the test's own, under its folder."""
    shutil.copytree(new_site, tmp_path, dirs_exist_ok=True)
    settings = Settings(data_dir=tmp_path / "var")
    database = open_database(settings.database_path, settings.audit_key_path, create=False)
    site = AuditSite(settings, database, Spool(settings.spool_dir, min_free_mib=0))
    yield site
    site.database.dispose()  # a test may have opened it again


@pytest.fixture
def uid_of() -> Callable[[int], str]:
    """The SOP Instance UID that `AuditSite.receive` gives a seed."""
    return sop_instance_uid
