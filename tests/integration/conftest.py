"""What integration tests of delivery share: reports to send, deliveries in a database, peers that misbehave."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt

from config.settings import DeliverySettings, DestinationSettings
from cxr.domain import ImageHeader, JobState, PackageStatus, ScoredImage, View, ViewDecision
from db import deliveries, images, jobs
from db.disk import Spool
from db.engine import Database, open_database
from db.schema.records import DeliveryRow, Receipt, ReportRecord
from inference.delivery.sender import Sender
from inference.report.part10 import encode
from inference.report.uids import derive_uid, series_uid

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def _code(value: str, scheme: str, meaning: str) -> Sequence:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return Sequence([code])


@pytest.fixture
def make_report() -> Callable[..., Dataset]:
    """Make a small SR of one text item, of a study of its own for each number."""

    def make(number: int = 0, sop_class_uid: str = str(Comprehensive3DSRStorage)) -> Dataset:
        report = Dataset()
        report.SpecificCharacterSet = "ISO_IR 100"
        report.SOPClassUID = sop_class_uid
        report.SOPInstanceUID = derive_uid("test", "instance", str(number))
        report.StudyInstanceUID = derive_uid("test", "study", str(number))
        report.SeriesInstanceUID = series_uid(report.SOPInstanceUID)
        report.StudyDate, report.StudyTime, report.AccessionNumber = "20200401", "101500", f"ACC{number}"
        report.PatientName, report.PatientID = "Synthetic^Xray", f"SYN{number}"
        report.PatientBirthDate, report.PatientSex, report.StudyID = "19700101", "O", "1"
        report.ReferringPhysicianName = ""
        report.Modality, report.SeriesNumber, report.InstanceNumber = "SR", "9901", "1"
        report.Manufacturer = "Synthetic"
        report.CompletionFlag, report.VerificationFlag = "PARTIAL", "UNVERIFIED"
        report.ContentDate, report.ContentTime = "20260302", "120000"
        report.ValueType, report.ContinuityOfContent = "CONTAINER", "SEPARATE"
        report.ConceptNameCodeSequence = _code("126000", "DCM", "Imaging Measurement Report")
        item = Dataset()
        item.RelationshipType, item.ValueType = "CONTAINS", "TEXT"
        item.ConceptNameCodeSequence = _code("121071", "DCM", "Finding")
        item.TextValue = "RESEARCH USE ONLY - NOT FOR CLINICAL USE"
        report.ContentSequence = Sequence([item])
        return report

    return make


@dataclass
class Peer:
    """A real Storage SCP that answers as it is told, and writes down what it was asked."""

    port: int
    answers: list[int] = field(default_factory=list)  # one per C-STORE; the last one stays
    behave: Callable[[Any], int | None] | None = None  # before the answer; a status of its own, or None
    received: list[Dataset] = field(default_factory=list)
    associations: int = 0
    delay_s: float = 0.0

    @property
    def address(self) -> str:
        return f"PEER@127.0.0.1:{self.port}"

    def on_store(self, event: evt.Event) -> int:
        self.received.append(event.dataset)
        if self.behave is not None:
            status = self.behave(event)
            if status is not None:
                return status
        time.sleep(self.delay_s)
        return self.answers.pop(0) if len(self.answers) > 1 else (self.answers or [0x0000])[0]

    def on_accepted(self, event: evt.Event) -> None:
        self.associations += 1


SR_AND_CAPTURE = (
    str(Comprehensive3DSRStorage),
    str(ComprehensiveSRStorage),
    str(EnhancedSRStorage),
    str(SecondaryCaptureImageStorage),
)


@pytest.fixture
def peer_factory(free_port: Callable[[], int]) -> Iterator[Callable[..., Peer]]:
    """Start a Storage SCP; keyword arguments say how it behaves."""
    servers: list[Any] = []

    def start(
        *,
        answers: tuple[int, ...] = (0x0000,),
        accepts: tuple[str, ...] = SR_AND_CAPTURE,
        syntaxes: tuple[str, ...] = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)),
        also: tuple[str, ...] = (),
        handlers: tuple[Any, ...] = (),
        behave: Callable[[Any], int | None] | None = None,
        configure: Callable[[AE], None] = lambda entity: None,
        tls: Any = None,
        port: int | None = None,
    ) -> Peer:
        peer = Peer(port=port or free_port(), answers=list(answers), behave=behave)
        entity = AE(ae_title="PEER")
        for sop_class in accepts:
            entity.add_supported_context(sop_class, list(syntaxes))
        for sop_class in also:
            entity.add_supported_context(sop_class)
        configure(entity)
        server = entity.start_server(
            ("127.0.0.1", peer.port),
            block=False,
            ssl_context=tls,
            evt_handlers=[(evt.EVT_C_STORE, peer.on_store), (evt.EVT_ACCEPTED, peer.on_accepted), *handlers],
        )
        servers.append(server)
        return peer

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture
def report_file(tmp_path: Path, make_report: Callable[..., Dataset]) -> Callable[..., Path]:
    """Write a report as the spool would keep it."""

    def write(number: int = 0, sop_class_uid: str = str(Comprehensive3DSRStorage)) -> Path:
        path = tmp_path / f"report{number}-{sop_class_uid[-2:]}.dcm"
        path.write_bytes(encode(make_report(number, sop_class_uid)))
        return path

    return write


@dataclass
class Outbox:
    """A real audit database and spool with reports that wait for delivery."""

    database: Database
    spool: Spool
    make_report: Callable[..., Dataset]

    def add(
        self, number: int = 0, *, destinations: tuple[str, ...] = ("pacs",), sop_class_uid: str = SR_AND_CAPTURE[0]
    ) -> None:
        """Take one image through its states up to a report with its deliveries, at noon."""
        report = self.make_report(number, sop_class_uid)
        receipt = Receipt(
            header=ImageHeader(
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
                sop_instance_uid=derive_uid("test", "source", str(number)),
                study_instance_uid=str(report.StudyInstanceUID),
                identity_digest="0",
            ),
            decision=ViewDecision(view=View.FRONTAL, is_chest=True, reason="test"),
            initial_state=JobState.QUEUED,
            reason="test",
            peer_ae_title="MODALITY",
            transfer_syntax_uid=str(ExplicitVRLittleEndian),
            size_bytes=1,
            dataset_digest=str(number),
            pixel_digest=str(number),
            spool_name=self.spool.write(b"pixels", suffix=".dcm"),
            received_at=NOON,
        )
        content = encode(report)
        record = ReportRecord(
            kind="sr",
            sop_class_uid=str(report.SOPClassUID),
            sop_instance_uid=str(report.SOPInstanceUID),
            series_instance_uid=str(report.SeriesInstanceUID),
            spool_name=self.spool.write(content, suffix=".dcm"),
            content_digest=str(number),
            created_at=NOON,
        )
        scored = ScoredImage(
            scores=(),
            model_name="test",
            model_version="1",
            fingerprint="f" * 64,
            status=PackageStatus.EVALUATED,
            scored_at=NOON,
            device="cpu",
        )
        with self.database.begin() as session:
            images.receive(session, receipt, now=NOON)
            (job,) = jobs.claim(session, worker_id="test", limit=1, now=NOON, lease_s=60)
            jobs.finish(
                session,
                job.id,
                worker_id="test",
                scored=scored,
                reports=[record],
                destinations=list(destinations),
                now=NOON,
            )

    def rows(self, destination: str | None = None) -> list[DeliveryRow]:
        """All deliveries, oldest first."""
        with self.database.read() as session:
            return deliveries.list_deliveries(session, destination=destination)[::-1]

    def row(self) -> DeliveryRow:
        """The only delivery."""
        (row,) = self.rows()
        return row

    def requeue(self, now: datetime) -> None:
        with self.database.begin() as session:
            deliveries.requeue(session, self.row().id, now)


@pytest.fixture
def outbox(tmp_path: Path, make_report: Callable[..., Dataset]) -> Iterator[Outbox]:
    database = open_database(tmp_path / "var" / "audit.sqlite", tmp_path / "keys" / "audit.key", create=True, now=NOON)
    spool = Spool(tmp_path / "var" / "spool", min_free_mib=0)
    spool.prepare()
    yield Outbox(database, spool, make_report)
    database.dispose()


@pytest.fixture
def sender_to(outbox: Outbox) -> Iterator[Callable[..., Sender]]:
    """Make a sender; keyword arguments are settings of the destination."""
    made: list[Sender] = []

    def make(address: str, *, delivery: DeliverySettings | None = None, draw: float = 0.0, **settings: Any) -> Sender:
        destination = DestinationSettings(
            **({"name": "pacs", "kind": "dicom", "address": address, "timeout_s": 5.0, "verify": "none"} | settings)
        )
        made.append(
            Sender(
                destination,
                database=outbox.database,
                spool=outbox.spool,
                settings=delivery or DeliverySettings(),
                calling_ae_title="CXR",
                draw=lambda: draw,
            )
        )
        return made[-1]

    yield make
    for sender in made:
        sender.close()


@pytest.fixture(scope="session")
def make_certificates(require_peer: Callable[[str], str]) -> Callable[[Path], Path]:
    """Make an authority in a folder, and certificates of it for the service and for a peer."""
    openssl = require_peer("openssl")

    def make(folder: Path) -> Path:
        def run(*arguments: str) -> None:
            subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

        folder.mkdir(exist_ok=True)
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        new_key = ["-newkey", "rsa:2048", "-nodes"]
        run("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", f"/CN=CA of {folder.name}")
        for name in ("server", "peer"):
            run("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", *subject)
            run(
                *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
                *("-copy_extensions", "copy", "-out", f"{name}.pem"),
            )
        return folder

    return make
