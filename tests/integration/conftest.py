"""What integration tests of delivery share: reports to send, deliveries in a database, peers that misbehave."""

from __future__ import annotations

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

from inference.identifiers import derive_uid, series_uid
from inference.part10 import encode

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
