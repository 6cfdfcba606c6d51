"""The report's tree, header and UIDs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from cxr import product
from cxr.dicom import read_header
from cxr.dicom.header import COPIED_KEYWORDS
from cxr.domain import PackageStatus, Score, ScoredImage
from cxr.errors import ReportError
from cxr.package import PackageManifest
from inference.report.build import BuiltReport, ReportOptions, SourceDigests, build_report
from inference.report.copying import COPIED
from inference.report.part10 import encode
from inference.report.source import REFERENCED, EvidenceMapReference
from inference.report.words import GROUP_COMMENT

CREATED = datetime(2024, 5, 1, 10, 0, 0, tzinfo=UTC)
FOUR = ("covid19", "viral_pneumonia", "lung_opacity", "normal")
OPTIONS = ReportOptions(application_version="9.9.9")
CXR = product.CODING_SCHEME_DESIGNATOR

Build = Callable[..., BuiltReport]


def reread(dataset: Dataset) -> Dataset:
    """As the worker reads a received header: from bytes, without pixels."""
    del dataset.PixelData
    return dcmread(BytesIO(encode(dataset)))


@pytest.fixture
def build(
    synthetic_xray: Callable[..., Dataset],
    model_manifest: Callable[..., PackageManifest],
    scored_by: Callable[..., ScoredImage],
) -> Build:
    def make(
        source: Dataset | None = None,
        *,
        findings: tuple[str, ...] = ("covid19",),
        threshold: float | None = 0.5,
        status: PackageStatus = PackageStatus.EVALUATED,
        created: datetime = CREATED,
        options: ReportOptions = OPTIONS,
        digests: SourceDigests | None = None,
        scored: dict[str, Any] | None = None,
        evidence_map: EvidenceMapReference | None = None,
    ) -> BuiltReport:
        image = reread(synthetic_xray()) if source is None else source
        manifest = model_manifest(*findings, threshold=threshold, status=status)
        return build_report(
            image,
            scored_by(manifest, **(scored or {})),
            manifest,
            digests=digests or SourceDigests(pixel_digest="p" * 64, identity_digest=read_header(image).identity_digest),
            created=created,
            options=options,
            evidence_map=evidence_map,
        )

    return make


def rows(item: Dataset, depth: int = 0) -> Iterator[tuple[int, str, str, str, str]]:
    """Each content item as (depth, relationship, value type, concept, value)."""
    for child in item.get("ContentSequence", ()):
        name = child.ConceptNameCodeSequence[0]
        concept = f"{name.CodeValue},{name.CodingSchemeDesignator}"
        yield depth, child.RelationshipType, child.ValueType, concept, value_of(child)
        yield from rows(child, depth + 1)


def value_of(item: Dataset) -> str:
    match item.ValueType:
        case "CODE":
            code = item.ConceptCodeSequence[0]
            return f"{code.CodeValue},{code.CodingSchemeDesignator}"
        case "TEXT":
            return str(item.TextValue)
        case "NUM":
            measured = item.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0]
            return f"{measured.NumericValue} {unit.CodeValue},{unit.CodingSchemeDesignator}"
        case "UIDREF":
            return str(item.UID)
        case "IMAGE":
            return str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        case _:
            return str(item.ContinuityOfContent)


def find(report: BuiltReport, concept: str) -> list[str]:
    return [value for *_, name, value in rows(report.dataset) if name == concept]


def test_the_tree_is_the_one_of_the_specification(build: Build, synthetic_xray: Callable[..., Dataset]) -> None:
    source = reread(synthetic_xray())
    report = build(source)
    image = str(source.SOPInstanceUID)
    device, tracking = str(report.dataset.DeviceUID), find(report, "112040,DCM")[0]
    parameters = find(report, "111002,DCM")
    assert list(rows(report.dataset)) == [
        (0, "HAS CONCEPT MOD", "CODE", "113011,DCM", "113009,DCM"),
        (0, "HAS CONCEPT MOD", "CODE", "121049,DCM", "en,RFC5646"),
        (0, "HAS OBS CONTEXT", "CODE", "121005,DCM", "121007,DCM"),
        (0, "HAS OBS CONTEXT", "UIDREF", "121012,DCM", device),
        (0, "HAS OBS CONTEXT", "TEXT", "121013,DCM", "cxr-listener"),
        (0, "HAS OBS CONTEXT", "TEXT", "121014,DCM", product.MANUFACTURER),
        (0, "HAS OBS CONTEXT", "TEXT", "121015,DCM", "test-net 1.2.0"),
        (0, "HAS CONCEPT MOD", "CODE", "121058,DCM", "30745-4,LN"),
        (0, "CONTAINS", "TEXT", f"RUO-NOTICE,{CXR}", product.NOTICE_SENTENCE),
        (0, "CONTAINS", "TEXT", f"RUO-MODEL,{CXR}", "test-net 1.2.0"),
        (0, "CONTAINS", "CONTAINER", "111028,DCM", "SEPARATE"),
        (1, "CONTAINS", "CONTAINER", "126200,DCM", "SEPARATE"),
        (2, "CONTAINS", "IMAGE", "260753009,SCT", image),
        (3, "HAS ACQ CONTEXT", "CODE", "121139,DCM", "CR,DCM"),
        (3, "HAS ACQ CONTEXT", "NUM", "110910,DCM", "64 {pixels},UCUM"),
        (3, "HAS ACQ CONTEXT", "NUM", "110911,DCM", "48 {pixels},UCUM"),
        (3, "HAS ACQ CONTEXT", "TEXT", "111044,DCM", "L"),
        (3, "HAS ACQ CONTEXT", "TEXT", "111043,DCM", "F"),
        (0, "CONTAINS", "CONTAINER", "126010,DCM", "SEPARATE"),
        (1, "HAS CONCEPT MOD", "TEXT", "111001,DCM", "test-net"),
        (1, "HAS CONCEPT MOD", "TEXT", "111003,DCM", "1.2.0"),
        (1, "HAS CONCEPT MOD", "TEXT", "122405,DCM", product.MANUFACTURER),
        *((1, "HAS CONCEPT MOD", "TEXT", "111002,DCM", parameter) for parameter in parameters),
        (1, "HAS CONCEPT MOD", "CODE", "111000,DCM", "123110,DCM"),
        (1, "CONTAINS", "CONTAINER", "125007,DCM", "SEPARATE"),
        (2, "HAS OBS CONTEXT", "TEXT", "112039,DCM", "test-net:covid19"),
        (2, "HAS OBS CONTEXT", "UIDREF", "112040,DCM", tracking),
        (2, "CONTAINS", "CODE", "121071,DCM", "840539006,SCT"),
        (2, "HAS CONCEPT MOD", "CODE", "363698007,SCT", "39607008,SCT"),
        (2, "CONTAINS", "TEXT", "121106,DCM", GROUP_COMMENT),
        (2, "CONTAINS", "NUM", "111012,DCM", "87.31 %,UCUM"),
        (3, "INFERRED FROM", "IMAGE", "121112,DCM", image),
        (2, "CONTAINS", "NUM", f"THRESHOLD,{CXR}", "50.00 %,UCUM"),
        (2, "CONTAINS", "CODE", f"THRESHOLD-CMP,{CXR}", f"AT-OR-ABOVE,{CXR}"),
        (2, "CONTAINS", "IMAGE", "121112,DCM", image),
        (0, "CONTAINS", "CONTAINER", "C0034375,UMLS", "SEPARATE"),
        (1, "CONTAINS", "TEXT", "121106,DCM", product.NOTICE_SENTENCE),
    ]
    assert report.dataset.ContinuityOfContent == "SEPARATE"
    assert report.dataset.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert [name.partition("=")[0] for name in parameters] == [
        "fingerprint",
        "model_sha256",
        "classes",
        "preprocessing",
        "activation",
        "operating_point",
        "explanation",
        "status",
    ]
    assert parameters[4] == "activation=sigmoid (uncalibrated)"
    assert parameters[5] == "operating_point=covid19:0.5"


def test_the_exact_score_is_kept_beside_the_readable_one(build: Build) -> None:
    report = build(scored={"scores": (Score(finding="covid19", score=0.000312345678901),)})
    group = report.dataset.ContentSequence[11].ContentSequence[-1]
    number = next(item for item in group.ContentSequence if item.ValueType == "NUM").MeasuredValueSequence[0]
    assert str(number.NumericValue) == "0.03"
    assert number.FloatingPointValue == pytest.approx(0.0312345678901, rel=1e-12)


def test_four_classes_have_a_group_each_and_no_comparison(build: Build) -> None:
    report = build(findings=FOUR, threshold=None)
    assert find(report, "121071,DCM") == ["840539006,SCT", "75570004,SCT", "112001,DCM", "17621005,SCT"]
    assert len(find(report, "363698007,SCT")) == 3  # nothing to localise in a normal one
    assert len(set(find(report, "112040,DCM"))) == 4
    assert find(report, f"THRESHOLD-CMP,{CXR}") == find(report, f"THRESHOLD,{CXR}") == []
    assert find(report, "121106,DCM")[:-1] == [GROUP_COMMENT] * 4
    assert "operating_point=none" in find(report, "111002,DCM")


@pytest.mark.parametrize(("score", "expected"), [(0.5, "AT-OR-ABOVE"), (0.4999999, "BELOW")])
def test_the_score_is_compared_with_the_operating_point(build: Build, score: float, expected: str) -> None:
    report = build(scored={"scores": (Score(finding="covid19", score=score, threshold=0.5),)})
    assert find(report, f"THRESHOLD-CMP,{CXR}") == [f"{expected},{CXR}"]


def test_the_title_is_ours_or_that_of_an_imaging_measurement_report(build: Build) -> None:
    own = build().dataset.ConceptNameCodeSequence[0]
    public = build(options=replace(OPTIONS, title="imaging_measurement_report")).dataset.ConceptNameCodeSequence[0]
    assert (own.CodeValue, own.CodingSchemeDesignator, own.CodeMeaning) == (
        "RUO-AI-REPORT",
        CXR,
        "AI research result - NOT FOR CLINICAL USE",
    )
    assert (public.CodeValue, public.CodingSchemeDesignator) == ("126000", "DCM")


def test_the_header_says_research_in_every_place_it_has(build: Build) -> None:
    header = build().dataset
    assert header.SOPClassUID == Comprehensive3DSRStorage
    assert header.Modality == "SR"
    assert header.ContentQualification == "RESEARCH"
    assert (header.CompletionFlag, header.PreliminaryFlag, header.VerificationFlag) == (
        "PARTIAL",
        "PRELIMINARY",
        "UNVERIFIED",
    )
    assert "not a clinical report" in header.CompletionFlagDescription
    assert header.SeriesDescription == product.REPORT_SERIES_DESCRIPTION == header.ClinicalTrialSeriesDescription
    assert header.SeriesDescriptionCodeSequence[0].CodeValue == "113009"
    assert header.SeriesNumber == 9901
    assert header.Manufacturer == product.MANUFACTURER
    assert "ClinicalTrialSubjectID" not in header
    assert "ClinicalTrialTimePointID" not in header
    assert "ReferencedRequestSequence" not in header
    assert "CodingSchemeUID" not in header.CodingSchemeIdentificationSequence[0]


def test_both_machines_are_named(build: Build) -> None:
    header = build().dataset
    acquisition, algorithm = header.ContributingEquipmentSequence
    assert acquisition.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
    assert acquisition.Manufacturer == "Synthetic"
    assert algorithm.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert algorithm.DeviceUID == header.DeviceUID == header.AuthorObserverSequence[0].DeviceUID
    assert header.SoftwareVersions == ["cxr-listener 9.9.9", "0123456789abcdef" * 4, "model 1.2.0"]


@pytest.mark.parametrize("manufacturer", [None, "", " "])
def test_equipment_without_manufacturer_is_left_out(
    build: Build, synthetic_xray: Callable[..., Dataset], manufacturer: str | None
) -> None:
    """Manufacturer is type 1 in Contributing Equipment Sequence, and often empty in an image."""
    header = build(reread(synthetic_xray(Manufacturer=manufacturer))).dataset
    (algorithm,) = header.ContributingEquipmentSequence
    assert algorithm.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"


@pytest.mark.parametrize(
    ("status", "word"),
    [(PackageStatus.UNTRAINED, "UNTRAINED MODEL"), (PackageStatus.DEMONSTRATION, "DEMONSTRATION MODEL")],
)
@pytest.mark.parametrize("title", ["research", "imaging_measurement_report"])
def test_results_of_a_model_that_was_not_evaluated_say_so(
    build: Build, status: PackageStatus, word: str, title: Any
) -> None:
    report = build(status=status, options=replace(OPTIONS, title=title))
    header = report.dataset
    said = [
        header.SeriesDescription,
        header.ClinicalTrialSeriesDescription,
        header.CompletionFlagDescription,
        header.ContributingEquipmentSequence[-1].ContributionDescription,
        *find(report, f"RUO-NOTICE,{CXR}"),
        *(comment for comment in find(report, "121106,DCM") if comment != GROUP_COMMENT),
        *find(report, f"RUO-MODEL,{CXR}"),
        *find(report, "121015,DCM"),
        *find(report, "111001,DCM"),
        *find(report, "112039,DCM"),
        find(report, "111002,DCM")[-1],
    ]
    if title == "research":
        said.append(header.ConceptNameCodeSequence[0].CodeMeaning)
    assert len(said) == 11 + (title == "research")
    assert [text for text in said if word not in text] == []


def test_every_text_of_ours_fits_its_element_and_any_character_set(build: Build) -> None:
    def texts(dataset: Dataset) -> Iterator[tuple[str, str]]:
        for element in dataset:
            if element.VR == "SQ":
                for item in element.value:
                    yield from texts(item)
            elif element.VR in {"LO", "SH", "UT", "ST", "CS", "UC"}:
                for value in [element.value] if element.VM <= 1 else element.value:
                    yield str(element.VR), str(value or "")

    limits = {"LO": 64, "SH": 16, "CS": 16, "ST": 1024}
    for status in PackageStatus:
        found = list(texts(build(status=status, scored={"warnings": ("too_dark",)}).dataset))
        assert len(found) > 100
        assert [text for _, text in found if not text.isascii() or "\\" in text or "~" in text] == []
        assert [(vr, text) for vr, text in found if len(text) > limits.get(vr, 10_000)] == []


def test_quality_warnings_stand_in_parameters_and_comment(build: Build) -> None:
    report = build(scored={"warnings": ("too_dark", "rotated")})
    assert find(report, "111002,DCM")[-1] == "quality_warnings=too_dark,rotated"
    assert "too_dark, rotated" in find(report, "121106,DCM")[-1]
    assert find(build(), "121106,DCM") == [GROUP_COMMENT, product.NOTICE_SENTENCE]


def test_the_evidence_map_is_referenced_in_the_group_of_its_finding(build: Build) -> None:
    reference = EvidenceMapReference(
        sop_class_uid=str(SecondaryCaptureImageStorage),
        sop_instance_uid="2.25.11",
        series_instance_uid="2.25.12",
        finding="normal",
    )
    with_map, without = build(findings=FOUR, evidence_map=reference), build(findings=FOUR)
    groups = [item for item in with_map.dataset.ContentSequence[11].ContentSequence if item.ValueType == "CONTAINER"]
    maps = [[value for *_, name, value in rows(group) if name == f"EVIDENCE-MAP,{CXR}"] for group in groups]
    assert maps == [[], [], [], ["2.25.11"]]
    assert find(without, f"EVIDENCE-MAP,{CXR}") == []
    series = with_map.dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert len(series) == 2
    assert series[1].SeriesInstanceUID == "2.25.12"
    assert series[1].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.11"
    assert with_map.sop_instance_uid != without.sop_instance_uid


def test_the_model_stands_in_the_text_of_the_report(build: Build) -> None:
    report = build(status=PackageStatus.DEMONSTRATION)
    assert find(report, f"RUO-MODEL,{CXR}") == ["DEMONSTRATION MODEL - test-net 1.2.0"]


def test_stamps_tell_the_one_moment_that_was_given(build: Build, synthetic_xray: Callable[..., Dataset]) -> None:
    source = reread(synthetic_xray(TimezoneOffsetFromUTC="+0530"))
    header = build(source).dataset
    for kind in ("InstanceCreation", "Content", "Series"):
        assert (header[f"{kind}Date"].value, header[f"{kind}Time"].value) == ("20240501", "153000")
    assert header.ContributingEquipmentSequence[-1].ContributionDateTime == "20240501153000+0530"
    assert header.TimezoneOffsetFromUTC == "+0530"


def test_the_same_input_gives_the_same_bytes(build: Build, synthetic_xray: Callable[..., Dataset]) -> None:
    first, second = (build(reread(synthetic_xray())) for _ in range(2))
    assert first.content == second.content == encode(first.dataset)
    assert first.content_digest == second.content_digest
    read = dcmread(BytesIO(first.content))
    assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID == first.sop_instance_uid
    assert read.SeriesInstanceUID == first.series_instance_uid


def test_time_host_device_and_score_do_not_change_the_uid(build: Build) -> None:
    uid = build().sop_instance_uid
    assert build(created=CREATED + timedelta(days=1)).sop_instance_uid == uid
    assert build(scored={"device": "gpu:0", "scored_at": CREATED}).sop_instance_uid == uid
    assert build(scored={"scores": (Score(finding="covid19", score=0.1, threshold=0.5),)}).sop_instance_uid == uid


@pytest.mark.parametrize(
    "change",
    [
        {"options": ReportOptions(application_version="9.9.10")},
        {"options": ReportOptions(application_version="9.9.9", title="imaging_measurement_report")},
        {"threshold": 0.51},
        {"threshold": None},
        {"status": PackageStatus.DEMONSTRATION},
        {"scored": {"fingerprint": "f" * 64}},
        {"scored": {"model_version": "1.2.1"}},
        {"scored": {"model_name": "other-net"}},
        {"scored": {"warnings": ("too_dark",)}},
        {"digests": SourceDigests(pixel_digest="q" * 64, identity_digest="i" * 64)},
        {"findings": ("covid19", "normal")},
    ],
)
def test_whatever_changes_the_content_changes_every_uid(build: Build, change: dict[str, Any]) -> None:
    before = build(digests=SourceDigests(pixel_digest="p" * 64, identity_digest="i" * 64))
    after = build(**{"digests": SourceDigests(pixel_digest="p" * 64, identity_digest="i" * 64)} | change)
    assert after.sop_instance_uid != before.sop_instance_uid
    assert after.series_instance_uid != before.series_instance_uid
    assert after.content != before.content


def test_the_device_uid_changes_with_the_model_alone(build: Build) -> None:
    device = build().dataset.DeviceUID
    assert build(threshold=0.9).dataset.DeviceUID == device
    assert build(scored={"fingerprint": "f" * 64}).dataset.DeviceUID != device


CHANGES: dict[str, str | int] = {
    "SpecificCharacterSet": "ISO_IR 192",
    "TimezoneOffsetFromUTC": "+0100",
    "PatientBirthDate": "19700102",
    "PatientSex": "F",
    "PatientIdentityRemoved": "NO",
    "PatientAge": "050Y",
    "PatientSize": "1.8",
    "PatientWeight": "80",
    "StudyInstanceUID": "1.2.3.4",
    "SeriesInstanceUID": "1.2.3.5",
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
    "StudyDate": "20200402",
    "StudyTime": "101501",
    "Modality": "DX",
    "Rows": 65,
    "Columns": 49,
    "PatientOrientation": "R",
}


@pytest.mark.parametrize("keyword", COPIED_KEYWORDS)
def test_a_change_of_any_copied_attribute_changes_the_uid(
    build: Build, synthetic_xray: Callable[..., Dataset], keyword: str
) -> None:
    before = build(reread(synthetic_xray())).sop_instance_uid
    changed = reread(synthetic_xray(**{keyword: CHANGES.get(keyword, "Changed")}))
    assert build(changed).sop_instance_uid != before


def test_what_is_copied_is_what_the_identity_digest_covers() -> None:
    # The SOP Instance UID is a part of every UID by itself.
    assert {*COPIED, *REFERENCED} - {"SOPInstanceUID"} == set(COPIED_KEYWORDS)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_without_the_uids_to_refer_to_there_is_no_report(
    build: Build, synthetic_xray: Callable[..., Dataset], keyword: str
) -> None:
    with pytest.raises(ReportError, match=keyword):
        build(reread(synthetic_xray(**{keyword: None})))


@pytest.mark.parametrize("score", [math.nan, math.inf, -0.01, 1.01])
def test_a_score_that_is_no_probability_is_refused(build: Build, score: float) -> None:
    with pytest.raises(ReportError, match="0 to 1"):
        build(scored={"scores": (Score(finding="covid19", score=score),)})


def test_a_report_needs_scores_of_the_package_and_an_aware_moment(build: Build) -> None:
    with pytest.raises(ReportError, match="at least one score"):
        build(scored={"scores": ()})
    with pytest.raises(ReportError, match="inconsistent"):
        build(scored={"scores": (Score(finding="normal", score=0.5),)})
    with pytest.raises(ReportError, match="time zone"):
        build(created=CREATED.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("elements", "absent"),
    [
        ({"PatientOrientation": None}, ["111044,DCM", "111043,DCM"]),
        ({"PatientOrientation": ""}, ["111044,DCM", "111043,DCM"]),
        ({"PatientOrientation": ["L"]}, ["111044,DCM", "111043,DCM"]),
        ({"PatientOrientation": ["X", "Y"]}, ["111044,DCM", "111043,DCM"]),
        ({"Rows": None, "Columns": None}, ["110910,DCM", "110911,DCM"]),
    ],
)
def test_the_image_library_says_only_what_the_image_says(
    build: Build, synthetic_xray: Callable[..., Dataset], elements: dict[str, Any], absent: list[str]
) -> None:
    report = build(reread(synthetic_xray(**elements)))
    assert [concept for concept in absent if find(report, concept)] == []
    assert find(report, "121139,DCM") == ["CR,DCM"]


@pytest.mark.parametrize(
    ("sop_class", "modality", "expected"),
    [
        ("1.2.840.10008.5.1.4.1.1.1", None, "CR"),
        ("1.2.840.10008.5.1.4.1.1.1.1", "CR", "DX"),
        ("1.2.840.10008.5.1.4.1.1.7", "DX", "DX"),
        ("1.2.840.10008.5.1.4.1.1.7", "OP", "OT"),
        ("1.2.840.10008.5.1.4.1.1.7", None, "OT"),
    ],
)
def test_the_modality_is_that_of_the_sop_class(
    build: Build, synthetic_xray: Callable[..., Dataset], sop_class: str, modality: str | None, expected: str
) -> None:
    report = build(reread(synthetic_xray(SOPClassUID=sop_class, Modality=modality)))
    assert find(report, "121139,DCM") == [f"{expected},DCM"]
