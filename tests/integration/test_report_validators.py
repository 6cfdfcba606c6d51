"""Reports before the tools that others judge them with: dicom3tools, DCMTK, PixelMed, highdicom, Orthanc."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pynetdicom import AE

from cxr import product
from cxr.dicom import open_dataset, read_header
from cxr.domain import PackageStatus, ScoredImage
from cxr.package import PackageManifest
from inference.report import evidence_map
from inference.report.build import BuiltReport, ReportOptions, SourceDigests, build_report
from inference.report.fallback import FALLBACK_SOP_CLASSES, fallback
from inference.report.part10 import encode
from inference.report.source import EvidenceMapReference

CREATED = datetime(2024, 5, 1, 10, 0, tzinfo=UTC)
FOUR = ("covid19", "viral_pneumonia", "lung_opacity", "normal")
VARIANTS: dict[str, dict[str, Any]] = {
    "binary": {"findings": ("covid19",), "threshold": 0.5},
    "four classes": {"findings": FOUR},
    "binary, 126000": {"findings": ("covid19",), "threshold": 0.5, "title": "imaging_measurement_report"},
    "four classes, 126000": {"findings": FOUR, "title": "imaging_measurement_report"},
}

# What dciodvfy may say, and why.
DCIODVFY_WARNINGS = {
    rf"Unrecognized defined term = <{product.CODING_SCHEME_DESIGNATOR}>": "our private scheme, declared in the object",
    r"ContributingEquipmentSequence\S* - Attribute is not present in standard DICOM IOD": "Device UID: newer than this",
    r"Missing attribute or value that would be needed to build DICOMDIR": "the image has none either",
    r"Retired Person Name form": "the image's own name",
    r"Patient(Size|Weight)\S* - Value is zero": "the image's own value",
}
# What dcentvfy may say: the image lacks what the SR has as empty, or has what a report does not take over.
DCENTVFY_WARNINGS = {
    r"Attribute present in one instance but not the other": "absent in the image, empty in the SR; or not taken over",
    r"Attribute is empty \(zero length\) in one instance": "not a value of its VR in the image, or empty there",
    r"Different information entities for attribute - Element=<AccessionNumber>": "the tool's own artefact",
}

Make = Callable[..., BuiltReport]


@pytest.fixture(scope="session")
def run(require_peer: Callable[[str], str]) -> Callable[..., str]:
    """Run a tool and return all that it says."""

    def call(tool: str, *arguments: str | Path, check: bool = False) -> str:
        done = subprocess.run(
            [require_peer(tool), *map(str, arguments)],
            capture_output=True,
            timeout=240,
            check=False,
        )
        said = (done.stderr + done.stdout).decode("utf-8", "replace")
        assert not check or done.returncode == 0, said
        return said

    return call


@pytest.fixture
def make(model_manifest: Callable[..., PackageManifest], scored_by: Callable[..., ScoredImage]) -> Make:
    def build(
        source: Dataset,
        *,
        findings: tuple[str, ...] = ("covid19",),
        threshold: float | None = None,
        title: Any = "research",
        status: PackageStatus = PackageStatus.EVALUATED,
        warnings: tuple[str, ...] = (),
        evidence_map: EvidenceMapReference | None = None,
    ) -> BuiltReport:
        manifest = model_manifest(*findings, threshold=threshold, status=status)
        return build_report(
            source,
            scored_by(manifest, warnings=warnings),
            manifest,
            digests=SourceDigests(pixel_digest="p", identity_digest=read_header(source).identity_digest),
            created=CREATED,
            options=ReportOptions(title=title),
            evidence_map=evidence_map,
        )

    return build


def with_bytes(dataset: Dataset, values: dict[str, bytes | None]) -> Dataset:
    """Put these bytes into these elements, as a peer may send them; None: without the element."""
    for keyword, value in values.items():
        tag = Tag(tag_for_keyword(keyword) or 0)
        dataset.pop(tag, None)
        if value is not None:
            padding = b"\0" if dictionary_VR(tag) == "UI" else b" "
            padded = value + padding * (len(value) % 2)
            dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(padded), padded, 0, False, True)
    return dataset


def header_of(synthetic_xray: Callable[..., Dataset], values: dict[str, bytes | None] | None = None) -> Dataset:
    dataset = synthetic_xray()
    del dataset.PixelData
    return with_bytes(dcmread(BytesIO(encode(dataset))), values or {})


def findings(said: str, severity: str) -> list[str]:
    """The tool's messages of one severity."""
    return [line for line in said.splitlines() if line.startswith(f"{severity} - ")]


def not_allowed(lines: list[str], allowed: dict[str, str]) -> list[str]:
    return [line for line in lines if not any(re.search(pattern, line) for pattern in allowed)]


TYPE_2 = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
JAPANESE = b"Shashin^Kyoubu=" + "写真".encode("iso2022_jp") + b"^" + "胸部".encode("iso2022_jp")
KOREAN = b"Sajin^Hyungbu=" + b"^".join(b"\x1b$)C" + word.encode("euc_kr") for word in ("사진", "흉부"))
SOURCES: dict[str, dict[str, bytes | None]] = {
    "plain": {},
    **{f"no {keyword}": {keyword: None} for keyword in TYPE_2},
    "no type 2 at all": dict.fromkeys(TYPE_2),
    "type 2 empty": dict.fromkeys(TYPE_2, b""),
    "sex W": {"PatientSex": b"W"},
    "sex U": {"PatientSex": b"U"},
    "birth date 1950": {"PatientBirthDate": b"1950"},
    "birth date in words": {"PatientBirthDate": b"UNKNOWN"},
    "study date of nonsense": {"StudyDate": b"2020-04-01", "StudyTime": b"quarter past"},
    "legacy dates": {"StudyDate": b"2020.04.01", "PatientBirthDate": b"1970.01.01", "StudyTime": b"10:15:00"},
    "age without unit": {"PatientAge": b"81"},
    "no charset": {"SpecificCharacterSet": None},
    "japanese": {"SpecificCharacterSet": b"\\ISO 2022 IR 87", "PatientName": JAPANESE},
    "korean": {"SpecificCharacterSet": b"\\ISO 2022 IR 149", "PatientName": KOREAN},
    "korean, escaped at the end": {"SpecificCharacterSet": b"\\ISO 2022 IR 149", "PatientName": KOREAN + b"\x1b(B"},
    "utf-8": {"SpecificCharacterSet": b"ISO_IR 192", "PatientName": "Xiongbu^Zhaopian=胸部^照片".encode()},
    "latin-1": {"SpecificCharacterSet": b"ISO_IR 100", "PatientName": b"R\xf6ntgen^Bild"},
    "foreign uid root": {
        "StudyInstanceUID": b"1.3.12.2.1107.5.3.33.1",
        "SeriesInstanceUID": b"1.2.392.200036.9125.2",
    },
    "no orientation, spacing, modality": {"PatientOrientation": None, "ImagerPixelSpacing": None, "Modality": None},
    "orientation of nonsense": {"PatientOrientation": b"UP\\DOWN"},
    "de-identified": {"PatientIdentityRemoved": b"YES", "DeidentificationMethod": b"by hand"},
    "in a trial": {
        "ClinicalTrialSponsorName": b"Sponsor",
        "ClinicalTrialProtocolID": b"P1",
        "ClinicalTrialSubjectID": b"S1",
        "ClinicalTrialTimePointID": b"T0",
    },
}
# Identity that is invalid in the image is copied as it is; these errors, and no others, are the image's own.
INVALID: dict[str, tuple[dict[str, bytes | None], tuple[str, ...]]] = {
    "long accession number": (
        {"AccessionNumber": b"A" * 26},
        (r"^Error - </AccessionNumber\S* - .*Length invalid for this VR = <26> - expected <= 16",),
    ),
    "long patient id": (
        {"PatientID": b"P" * 80},
        (r"^Error - </PatientID\S* - .*Length invalid for this VR = <80> - expected <= 64",),
    ),
    "leading zeros in the study": (
        {"StudyInstanceUID": b"1.2.840.0099.1.7"},
        (r"^Error - </\S*StudyInstanceUID\S* - .*Leading zeroes in embedded numeric component",),
    ),
    "undeclared eight-bit name": (
        {"SpecificCharacterSet": None, "PatientName": b"R\xf6ntgen^Bild"},
        (r"^Error - </PatientName\S* - .*Value invalid for this VR",),
    ),
    "charset that is none": (
        {"SpecificCharacterSet": b"UTF-8", "PatientName": "Röntgen^Bild".encode()},
        (
            r"^Error - </SpecificCharacterSet\S* - Value invalid for this VR \[CS\]",
            r"^Error - </PatientName\S* - .*Character invalid for character repertoire",
        ),
    ),
    "lone code extension": (
        {"SpecificCharacterSet": b"ISO 2022 IR 100", "PatientName": b"R\xf6ntgen^Bild"},
        (r"^Error - </PatientName\S* - .*Character invalid for character repertoire",),
    ),
}


def write_pair(folder: Path, header: Dataset, built: BuiltReport) -> tuple[Path, Path]:
    image, report = folder / "image.dcm", folder / "report.dcm"
    image.write_bytes(encode(header))
    report.write_bytes(built.content)
    return image, report


def faults(run: Callable[..., str], report: Path, iod: str = "Comprehensive3DSR") -> list[str]:
    """The errors dciodvfy finds, after checking that it knew the object and warned of nothing else."""
    said = run("dciodvfy", "-new", report)
    assert iod in said.splitlines(), said
    assert not_allowed(findings(said, "Warning"), DCIODVFY_WARNINGS) == []
    return findings(said, "Error")


@pytest.mark.parametrize("name", SOURCES)
def test_dicom3tools_accept_the_report_of_every_valid_source(
    run: Callable[..., str], make: Make, synthetic_xray: Callable[..., Dataset], tmp_path: Path, name: str
) -> None:
    for variant in VARIANTS.values():
        header = header_of(synthetic_xray, SOURCES[name])
        image, report = write_pair(tmp_path, header, make(header, **variant))
        assert faults(run, report) == []
    said = run("dcentvfy", image, report)
    assert findings(said, "Error") == []
    assert not_allowed(findings(said, "Warning"), DCENTVFY_WARNINGS) == []


@pytest.mark.parametrize("name", INVALID)
def test_invalid_identity_gives_the_images_own_errors_and_no_others(
    run: Callable[..., str], make: Make, synthetic_xray: Callable[..., Dataset], tmp_path: Path, name: str
) -> None:
    values, expected = INVALID[name]
    header = header_of(synthetic_xray, values)
    image, report = write_pair(tmp_path, header, make(header, threshold=0.5))
    said = run("dciodvfy", "-new", report)
    errors = findings(said, "Error")
    assert [pattern for pattern in expected if not any(re.search(pattern, line) for line in errors)] == []
    assert [line for line in errors if not any(re.search(pattern, line) for pattern in expected)] == []
    assert findings(run("dcentvfy", image, report), "Error") == []


def radiographs(shared_data: Path) -> Iterator[Path]:
    for group in ("chest_frontal", "radiograph_other"):
        yield from sorted((shared_data / "dicom" / group).iterdir())


# Of these the identifiers themselves are invalid; the report refers to them as they are.
OWN_ERRORS = (r"Illegal root for UID", r"Leading zeroes in embedded numeric component")


def test_every_real_radiograph_gives_a_report_that_dicom3tools_accept(
    run: Callable[..., str], make: Make, shared_data: Path, tmp_path: Path
) -> None:
    accepted = 0
    for file in radiographs(shared_data):
        for variant in VARIANTS.values():
            built = make(open_dataset(file, max_inflated_bytes=1 << 28), **variant)
            report = tmp_path / "report.dcm"
            report.write_bytes(built.content)
            errors = faults(run, report)
            # Named by file, not shown: the lines hold the image's values.
            assert [line for line in errors if not re.search("|".join(OWN_ERRORS), line)] == [], file.name
            assert not errors or file.parent.name != "chest_frontal", file.name
            accepted += not errors
        said = run("dcentvfy", file, report)
        assert findings(said, "Error") == [], file.name
        assert not_allowed(findings(said, "Warning"), DCENTVFY_WARNINGS) == [], file.name
    assert accepted >= 4 * 18  # one of the 19 has invalid UIDs


NAMES = (
    "Document Title Modifier",
    "Device Observer Name",
    "Procedure reported",
    product.NOTICE,
    "Image Library",
    "Algorithm Name",
    "Algorithm Parameters",
    "Certainty of Finding",
    "Model and version",
    "Research operating point of the score",
    "Finding Site",
    "Score relative to research operating point",
    "Comment",
)


@pytest.mark.parametrize("name", ["plain", "no type 2 at all", "japanese", "korean", "utf-8", "latin-1"])
def test_dcmtk_shows_every_item_with_its_name(
    run: Callable[..., str], make: Make, synthetic_xray: Callable[..., Dataset], tmp_path: Path, name: str
) -> None:
    header = header_of(synthetic_xray, SOURCES[name])
    _, report = write_pair(tmp_path, header, make(header, threshold=0.5, warnings=("too_dark",)))
    dump = run("dsrdump", report, check=True)
    # The HTML writer has no name for Korea's character set unless it converts.
    options = ("+U8",) if name == "korean" else ()
    page = re.sub(r"<[^>]+>", " ", run("dsr2html", *options, report, check=True))
    for shown in (dump, page):
        assert [item for item in NAMES if item not in shown] == []
        assert "87.31" in shown
        assert "AI research result - NOT FOR CLINICAL USE" in shown
        assert re.search(r"^[EF]: ", shown, re.MULTILINE) is None
    for words in ("RESEARCH USE ONLY", "PARTIAL", "PRELIMINARY", "UNVERIFIED", "not a clinical report", "too_dark"):
        assert words in page
    assert "Finding: COVID-19" in re.sub(r"\s+", " ", page)
    assert "Certainty of Finding: 87.31 %" in re.sub(r"\s+", " ", page)


PIXELMED_CLASSPATH = tuple(
    f"/usr/share/java/{name}.jar" for name in ("pixelmed", "commons-codec", "commons-net", "javax.json", "vecmath")
)
PIXELMED_FLAGS = tuple(
    f"-Djdk.xml.{limit}=0" for limit in ("xpathTotalOpLimit", "xpathExprOpLimit", "xpathExprGrpLimit")
)
# A baseline (not defined) context group may be extended: CID 100 lacks the plain chest radiograph.
PIXELMED_ERRORS = {
    r'\(121058,DCM,"Procedure reported"\): Code \(30745-4,LN,"XR Chest Views"\) not found in context group 100': ""
}
# Ours, or newer than the validator's templates of 2022.
PIXELMED_WARNINGS = {
    rf"\({code}[^)]*\): Content Item not in template": reason
    for code, reason in {
        '113011,DCM,"Document Title Modifier"': "the coded research mark",
        f"RUO-NOTICE,{product.CODING_SCHEME_DESIGNATOR}": "the notice",
        '122405,DCM,"Algorithm Manufacturer"': "TID 4019 has it since 2023",
        f"RUO-MODEL,{product.CODING_SCHEME_DESIGNATOR}": "model and version in the text",
        '121106,DCM,"Comment"': "the comment of a group",
        f"THRESHOLD-CMP,{product.CODING_SCHEME_DESIGNATOR}": "the comparison with the operating point",
        f"EVIDENCE-MAP,{product.CODING_SCHEME_DESIGNATOR}": "the reference to the evidence map",
    }.items()
}


def check_templates(run: Callable[..., str], report: Path) -> None:
    if not Path(PIXELMED_CLASSPATH[0]).exists():
        if os.environ.get("CXR_REQUIRE_PEERS") == "1":
            pytest.fail("libpixelmed-java is not installed and CXR_REQUIRE_PEERS=1")
        pytest.skip("libpixelmed-java is not installed (make peers)")
    said = run(
        "java", *PIXELMED_FLAGS, "-cp", ":".join(PIXELMED_CLASSPATH), "com.pixelmed.validate.DicomSRValidator", report
    )
    assert "Found Root Template TID_1500 (MeasurementReport)" in said, said
    assert "Root Template Validation Complete" in said, said
    assert "IOD validation complete" in said, said
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith("Error")]
    warnings = [line for line in lines if line.startswith("Warning")]
    assert not_allowed(errors, PIXELMED_ERRORS) == []
    assert not_allowed(warnings, PIXELMED_WARNINGS) == []


@pytest.mark.parametrize("variant", [{"findings": ("covid19",), "threshold": 0.5}, {"findings": FOUR}], ids=str)
def test_the_126000_twin_passes_pixelmeds_templates(
    run: Callable[..., str],
    make: Make,
    synthetic_xray: Callable[..., Dataset],
    tmp_path: Path,
    variant: dict[str, Any],
) -> None:
    header = header_of(synthetic_xray)
    built = make(header, title="imaging_measurement_report", **variant)
    check_templates(run, write_pair(tmp_path, header, built)[1])


@pytest.mark.long
@pytest.mark.parametrize("name", ["no type 2 at all", "japanese", "in a trial", "no orientation, spacing, modality"])
@pytest.mark.parametrize("status", list(PackageStatus))
def test_the_126000_twin_of_every_kind_passes_pixelmeds_templates(
    run: Callable[..., str],
    make: Make,
    synthetic_xray: Callable[..., Dataset],
    tmp_path: Path,
    name: str,
    status: PackageStatus,
) -> None:
    header = header_of(synthetic_xray, SOURCES[name])
    built = make(
        header,
        title="imaging_measurement_report",
        findings=("covid19", "bacterial_pneumonia", "normal"),
        threshold=0.3,
        status=status,
        warnings=("too_dark",),
    )
    check_templates(run, write_pair(tmp_path, header, built)[1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_highdicom_reads_the_measurements_back(
    make: Make, synthetic_xray: Callable[..., Dataset], variant: str
) -> None:
    from highdicom.sr import CodedConcept, Comprehensive3DSR

    built = make(header_of(synthetic_xray), **VARIANTS[variant])
    document = Comprehensive3DSR.from_dataset(dcmread(BytesIO(built.content)))
    groups = document.content.get_image_measurement_groups(finding_type=CodedConcept("840539006", "SCT", "COVID-19"))
    assert len(groups) == 1
    (measurement,) = groups[0].get_measurements(name=CodedConcept("111012", "DCM", "Certainty of Finding"))
    assert measurement.value == pytest.approx(87.31)
    assert measurement.unit.value == "%"
    everything = document.content.get_image_measurement_groups()
    assert len(everything) == len(VARIANTS[variant]["findings"])
    ((study, _, image, _),) = document.get_evidence()
    assert (study, image) == (
        built.dataset.StudyInstanceUID,
        everything[0].source_images[0].referenced_sop_instance_uid,
    )


def test_dicom3tools_accept_the_fallback_objects(
    run: Callable[..., str], make: Make, synthetic_xray: Callable[..., Dataset], tmp_path: Path
) -> None:
    header = header_of(synthetic_xray, SOURCES["japanese"])
    built = make(header, threshold=0.5)
    for sop_class, iod in zip(FALLBACK_SOP_CLASSES, ("ComprehensiveSR", "EnhancedSR"), strict=True):
        report = tmp_path / "fallback.dcm"
        report.write_bytes(encode(fallback(dcmread(BytesIO(built.content)), sop_class)))
        assert faults(run, report, iod) == []


def saliency_of(header: Dataset, manifest: PackageManifest, scored: ScoredImage) -> BuiltReport:
    return evidence_map.build_evidence_map(
        header,
        scored,
        np.full((64, 64, 1), 0.4, np.float32),
        np.random.default_rng(0).normal(size=(7, 7, len(manifest.classes))).astype(np.float32),
        digests=SourceDigests(pixel_digest="p", identity_digest="i"),
        created=CREATED,
    )


@pytest.mark.parametrize("name", ["plain", "no type 2 at all", "japanese", "sex W", "orientation of nonsense"])
def test_dicom3tools_accept_the_evidence_map(
    run: Callable[..., str],
    synthetic_xray: Callable[..., Dataset],
    model_manifest: Callable[..., PackageManifest],
    scored_by: Callable[..., ScoredImage],
    tmp_path: Path,
    name: str,
) -> None:
    manifest = model_manifest(*FOUR)
    header = header_of(synthetic_xray, SOURCES[name])
    image, capture = write_pair(tmp_path, header, saliency_of(header, manifest, scored_by(manifest)))
    assert faults(run, capture, "SCImage") == []
    said = run("dcentvfy", image, capture)
    assert findings(said, "Error") == []
    assert not_allowed(findings(said, "Warning"), DCENTVFY_WARNINGS) == []


@pytest.mark.parametrize("title", ["research", "imaging_measurement_report"])
def test_validators_accept_the_report_that_references_its_evidence_map(
    run: Callable[..., str],
    make: Make,
    synthetic_xray: Callable[..., Dataset],
    model_manifest: Callable[..., PackageManifest],
    scored_by: Callable[..., ScoredImage],
    tmp_path: Path,
    title: str,
) -> None:
    manifest = model_manifest("covid19", threshold=0.5)
    scored = scored_by(manifest)
    header = header_of(synthetic_xray)
    built = saliency_of(header, manifest, scored)
    capture = tmp_path / "map.dcm"
    capture.write_bytes(built.content)
    reference = evidence_map.reference_to(built, scored)
    image, report = write_pair(tmp_path, header, make(header, threshold=0.5, title=title, evidence_map=reference))
    assert faults(run, report) == []
    assert findings(run("dcentvfy", image, report, capture), "Error") == []
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", run("dsr2html", report, check=True)))
    assert "Evidence map of the score: SC image" in page
    if title != "research":  # PixelMed checks no template under a private title
        check_templates(run, report)


def store(orthanc: Any, *contents: bytes) -> list[int]:
    """C-STORE files to Orthanc; the statuses."""
    entity = AE(ae_title="CXR")
    datasets = [dcmread(BytesIO(content)) for content in contents]
    for dataset in datasets:
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", orthanc.dicom_port, ae_title=orthanc.ae_title)
    assert association.is_established
    try:
        return [int(association.send_c_store(dataset).Status) for dataset in datasets]
    finally:
        association.release()


@pytest.mark.parametrize("name", ["plain", "no type 2 at all", "japanese", "korean", "utf-8"])
def test_orthanc_files_the_report_in_the_images_study(
    orthanc: Any, make: Make, synthetic_xray: Callable[..., Dataset], name: str
) -> None:
    header = header_of(synthetic_xray, SOURCES[name])
    built = make(header, threshold=0.5)
    image = encode(header)
    assert store(orthanc, image, built.content) == [0, 0]
    (study,) = orthanc.get("/studies?expand")
    assert len(orthanc.get("/patients")) == 1
    assert len(study["Series"]) == 2
    (instance,) = orthanc.find("Instance", SOPInstanceUID=built.sop_instance_uid)
    assert orthanc.get(f"/series/{instance['ParentSeries']}")["ParentStudy"] == study["ID"]
    stored = dcmread(BytesIO(orthanc.get_bytes(f"/instances/{instance['ID']}/file")))
    assert stored == dcmread(BytesIO(built.content))
    names = [
        orthanc.get(f"/instances/{each}/simplified-tags").get("PatientName", "") for each in orthanc.get("/instances")
    ]
    assert names[0] == names[1]


def test_orthanc_keeps_one_object_whatever_is_resent(
    orthanc: Any, make: Make, synthetic_xray: Callable[..., Dataset]
) -> None:
    header = header_of(synthetic_xray)
    built = make(header)
    assert store(orthanc, built.content) == [0]
    again = make(header_of(synthetic_xray))
    assert store(orthanc, built.content, again.content) == [0, 0]
    assert len(orthanc.get("/instances")) == 1
    corrected = make(header_of(synthetic_xray, {"PatientName": b"Corrected^Name"}))
    assert store(orthanc, corrected.content) == [0]
    assert len(orthanc.get("/instances")) == 2
    fallbacks = [encode(fallback(dcmread(BytesIO(built.content)), each)) for each in FALLBACK_SOP_CLASSES]
    assert store(orthanc, *fallbacks, *fallbacks) == [0, 0, 0, 0]
    assert len(orthanc.get("/instances")) == 4
    assert len(orthanc.get("/series")) == 4  # each in a series of its own


def test_orthanc_shows_the_evidence_map(
    orthanc: Any,
    synthetic_xray: Callable[..., Dataset],
    model_manifest: Callable[..., PackageManifest],
    scored_by: Callable[..., ScoredImage],
) -> None:
    manifest = model_manifest()
    built = saliency_of(header_of(synthetic_xray), manifest, scored_by(manifest))
    assert store(orthanc, built.content) == [0]
    (instance,) = orthanc.get("/instances")
    assert orthanc.get_bytes(f"/instances/{instance}/preview").startswith(b"\x89PNG")
