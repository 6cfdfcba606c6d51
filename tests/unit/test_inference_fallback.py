"""The report for peers that take older SR classes only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from cxr.domain import ScoredImage
from cxr.errors import ReportError
from cxr.package import PackageManifest
from inference.report.build import SourceDigests, build_report
from inference.report.fallback import FALLBACK_SOP_CLASSES, fallback, fallback_uid
from inference.report.part10 import encode
from inference.report.uids import derive_uid, series_uid

COMPREHENSIVE, ENHANCED = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.88.22"


@pytest.fixture
def content(
    synthetic_xray: Callable[..., Dataset],
    model_manifest: Callable[..., PackageManifest],
    scored_by: Callable[..., ScoredImage],
) -> bytes:
    manifest = model_manifest()
    source = synthetic_xray(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Shashin^Kyoubu=写真^胸部")
    return build_report(
        source,
        scored_by(manifest),
        manifest,
        digests=SourceDigests(pixel_digest="p", identity_digest="i"),
        created=datetime(2024, 5, 1, tzinfo=UTC),
    ).content


def test_the_older_classes_are_tried_in_this_order() -> None:
    assert FALLBACK_SOP_CLASSES == (COMPREHENSIVE, ENHANCED)


@pytest.mark.parametrize("sop_class", FALLBACK_SOP_CLASSES)
def test_only_class_and_uids_differ(content: bytes, sop_class: str) -> None:
    original = dcmread(BytesIO(content))
    converted = dcmread(BytesIO(encode(fallback(dcmread(BytesIO(content)), sop_class))))
    assert converted.file_meta.MediaStorageSOPClassUID == converted.SOPClassUID == sop_class
    assert converted.SOPInstanceUID == fallback_uid(original.SOPInstanceUID, sop_class)
    assert converted.SeriesInstanceUID == series_uid(converted.SOPInstanceUID)
    changed = {"SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"}
    assert {element.keyword for element in original if element != converted[element.tag]} == changed
    assert len(original) == len(converted)


def test_text_keeps_its_bytes(content: bytes) -> None:
    original = dcmread(BytesIO(content)).get_item("PatientName").value
    converted = dcmread(BytesIO(encode(fallback(dcmread(BytesIO(content)), ENHANCED))))
    assert b"\x1b$B" in original
    assert converted.get_item("PatientName").value == original


def test_it_is_another_instance_for_each_class_and_always_the_same_one(content: bytes) -> None:
    sr = dcmread(BytesIO(content))
    uids = {sr.SOPInstanceUID, *(fallback(sr, each).SOPInstanceUID for each in FALLBACK_SOP_CLASSES)}
    assert len(uids) == 3
    twice = [encode(fallback(dcmread(BytesIO(content)), COMPREHENSIVE)) for _ in range(2)]
    assert twice[0] == twice[1]
    assert encode(sr) == content  # the original is untouched


def test_other_classes_are_refused(content: bytes) -> None:
    sr = dcmread(BytesIO(content))
    with pytest.raises(ReportError, match="Comprehensive SR or Enhanced SR only"):
        fallback(sr, "1.2.840.10008.5.1.4.1.1.88.11")
    with pytest.raises(ReportError, match="Only a Comprehensive 3D SR"):
        fallback(fallback(sr, ENHANCED), COMPREHENSIVE)


def test_delivery_needs_no_highdicom() -> None:
    program = (
        "import sys, inference.report.fallback, inference.report.part10, inference.report.uids; "
        "sys.exit(' '.join(m for m in ('highdicom', 'tensorflow', 'cv2') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "\n") or done.returncode == 0, done.stderr


def test_derived_uids_are_short_stable_and_tell_their_parts_apart() -> None:
    assert derive_uid("a", "b") == derive_uid("a", "b")
    assert len({derive_uid("a", "b"), derive_uid("ab"), derive_uid("b", "a"), derive_uid("a", "b", "")}) == 4
    uid = derive_uid("report", "x")
    assert uid.startswith("2.25.")
    assert len(uid) <= 44
    assert not uid.startswith("2.25.0")
