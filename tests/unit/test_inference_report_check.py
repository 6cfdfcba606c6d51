"""A report whose tree was checked before is the report that is checked anew, byte for byte."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from cxr.package import PackageManifest
from inference.report.build import CONTENT_KEYWORDS, BuiltReport, ReportOptions, SourceDigests, build_report
from inference.report.check import TreeCheck, check, tree_shape
from inference.report.part10 import encode
from inference.report.source import read_source

CREATED = datetime(2024, 5, 1, 10, 0, 0, tzinfo=UTC)
FOUR = ("covid19", "viral_pneumonia", "lung_opacity", "normal")
SOURCES: list[dict[str, Any]] = [
    {},
    {"PatientOrientation": ""},
    {"PatientName": "Ünlü^Test", "SpecificCharacterSet": "ISO_IR 100", "AccessionNumber": "A-2"},
    {"seed": 3, "StudyDate": "20231231"},
]


def tree_of(report: BuiltReport) -> Dataset:
    root = Dataset()
    for keyword in CONTENT_KEYWORDS:
        root[keyword] = report.dataset[keyword]
    return root


@pytest.fixture
def build(synthetic_xray: Any, model_manifest: Callable[..., PackageManifest], scored_by: Any) -> Any:
    def make(
        fields: dict[str, Any], findings: tuple[str, ...], values: tuple[float, ...], check: TreeCheck | None
    ) -> tuple[Dataset, BuiltReport]:
        image = synthetic_xray(**fields)
        del image.PixelData
        source = dcmread(BytesIO(encode(image)))
        manifest = model_manifest(*findings, threshold=0.5)
        return source, build_report(
            source,
            scored_by(manifest, *values, warnings=("grey_levels",) if fields else ()),
            manifest,
            digests=SourceDigests(pixel_digest="p" * 64, identity_digest="i" * 64),
            created=CREATED,
            options=ReportOptions(application_version="9.9.9"),
            check=check,
        )

    return make


@pytest.mark.parametrize("findings", [("covid19",), FOUR])
@pytest.mark.parametrize("fields", SOURCES)
def test_bytes_are_those_of_the_full_build(build: Any, fields: dict[str, Any], findings: tuple[str, ...]) -> None:
    known = TreeCheck()
    build({"seed": 9}, findings, (0.9,) * len(findings), known)
    source, quick = build(fields, findings, (0.25,) * len(findings), known)
    _, full = build(fields, findings, (0.25,) * len(findings), None)
    assert quick.content == full.content
    document = check(read_source(source), tree_of(full))
    for keyword in (*CONTENT_KEYWORDS, "CurrentRequestedProcedureEvidenceSequence"):
        full.dataset[keyword] = document[keyword]  # as highdicom makes it of the tree
    assert encode(full.dataset) == quick.content


def test_tree_of_another_shape_is_checked_and_refused(build: Any) -> None:
    known = TreeCheck()
    source, report = build({}, ("covid19",), (0.5,), known)
    broken = copy.deepcopy(tree_of(report))
    broken.ContentSequence[0].RelationshipType = "INFERRED FROM"
    assert tree_shape(broken) != tree_shape(tree_of(report))
    broken.ContentSequence[-1].ContentSequence[0].ValueType = "TABLE"
    with pytest.raises(ValueError, match="TABLE"):
        known(read_source(source), broken)


def test_one_shape_is_checked_once_whatever_the_values(build: Any) -> None:
    known = TreeCheck()
    for number, value in enumerate((0.1, 0.9, 0.4)):
        build({"seed": number + 1}, FOUR, (value,) * 4, known)
    assert len(known._accepted) <= 2  # above or below the threshold
