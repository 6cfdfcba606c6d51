"""Build the report of a scored image: a Comprehensive 3D SR in the image's study.

References
----------
DICOM PS3.3 Section A.35.13; PS3.16 TID 1500
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from cxr import product
from cxr.domain import Code, PackageStatus, ScoredImage
from cxr.errors import ReportError
from inference.report import codes
from inference.report.check import TreeCheck, evidence_sequence
from inference.report.header import Identity, add_document, shared_modules
from inference.report.part10 import encode
from inference.report.source import EvidenceMapReference, SourceImage, read_source
from inference.report.tree import build_tree
from inference.report.uids import derive_uid, series_uid

if TYPE_CHECKING:
    from cxr.package import PackageManifest

SCHEMA_VERSION = "2"
"""Version of the report's content, part of every UID: a change gives every report a new SOP Instance UID."""

CONTENT_KEYWORDS = (
    "ValueType",
    "ConceptNameCodeSequence",
    "ContinuityOfContent",
    "ContentTemplateSequence",
    "ContentSequence",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """Options of all reports.

    Parameters
    ----------
    title
        ``research``: our private title; ``imaging_measurement_report``: (126000, DCM), for IHE AIR consumers.
    application_version
        Version of this program.
    """

    title: Literal["research", "imaging_measurement_report"] = "research"
    application_version: str = field(default_factory=lambda: version(product.APPLICATION))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDigests:
    """BLAKE3 digests, in hex, that distinguish a resent image with changed content."""

    pixel_digest: str  # of the Pixel Data value
    identity_digest: str  # of every attribute that is copied, see cxr.dicom.header.COPIED_KEYWORDS


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltReport:
    """A DICOM object of this application, encoded."""

    dataset: Dataset = field(repr=False)  # holds a patient's identity: never log it
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    content: bytes = field(repr=False)  # the encoded file
    content_digest: str  # SHA-256, in hex, of the encoded file


def build_report(
    source: Dataset,
    scored: ScoredImage,
    package: PackageManifest,
    *,
    digests: SourceDigests,
    created: datetime,
    options: ReportOptions | None = None,
    check: TreeCheck | None = None,
    evidence_map: EvidenceMapReference | None = None,
) -> BuiltReport:
    """Build the report of one image.

    Parameters
    ----------
    source
        Received image, freshly read, pixels not needed. Raw elements, not yet converted by pydicom, are copied
        byte for byte.
    scored
        Scores of the image.
    package
        Manifest of the model package.
    digests
        Digests of the image.
    created
        Time of creation for all date and time attributes, aware. A retry must resend the encoded bytes.
    options
        Options of the report; None: the defaults.
    check
        highdicom's check with its memory of accepted tree shapes; None: check this tree in any case.
    evidence_map
        Evidence map of this image, which the report references; None: there is none.

    Returns
    -------
    BuiltReport
        Identical for identical arguments. The UIDs depend neither on ``created`` nor on the scores: the same
        model and image give the same scores up to the device's rounding, and one result must remain one object
        at the PACS.

    Raises
    ------
    ReportError
        If the image's UIDs, the scores or the package do not allow a valid report.
    """
    if created.tzinfo is None:
        raise ReportError("The time of creation has no time zone: pass an aware datetime.")
    options = options or ReportOptions()
    with warnings.catch_warnings():
        # Suppressed on purpose: the warnings of highdicom and pydicom quote values, which may be a patient's.
        warnings.simplefilter("ignore")
        image = read_source(source)
        identity = derive_identity(
            image,
            scored,
            digests,
            options,
            created,
            kind=f"report/{options.title}{'' if evidence_map is None else f'/{evidence_map.sop_instance_uid}'}",
            sop_class=Comprehensive3DSRStorage,
        )
        content = build_tree(
            image,
            scored,
            package,
            title=_title(options, scored.status),
            device_uid=identity.device_uid,
            evidence_map=evidence_map,
        )
        (check or TreeCheck())(image, content, evidence_map)
        report = shared_modules(
            source,
            identity,
            modality="SR",
            number=product.REPORT_SERIES_NUMBER,
            description=product.REPORT_SERIES_DESCRIPTION,
        )
        add_document(report, identity)
        report.CurrentRequestedProcedureEvidenceSequence = evidence_sequence(image, evidence_map)
        for keyword in CONTENT_KEYWORDS:
            report[keyword] = content[keyword]
    return finalise(report)


def derive_identity(
    image: SourceImage,
    scored: ScoredImage,
    digests: SourceDigests,
    options: ReportOptions,
    created: datetime,
    *,
    kind: str,
    sop_class: str,
) -> Identity:
    """Derive the UIDs of an object from everything that determines its content.

    Parameters
    ----------
    image
        Source image.
    scored
        Model and quality warnings.
    digests
        Digests of the image.
    options
        Options of the report.
    created
        Time of creation, for date and time attributes; not part of any UID.
    kind
        Kind of object with its options, such as ``report/research``.
    sop_class
        SOP Class UID of the object.
    """
    device_uid = derive_uid("device", scored.model_name, scored.model_version, scored.fingerprint, scored.status)
    thresholds = [f"{score.finding}:{score.threshold!r}" for score in scored.scores]
    sop_instance_uid = derive_uid(
        kind,
        SCHEMA_VERSION,
        sop_class,
        options.application_version,
        *image.uid_parts(),
        digests.pixel_digest,
        digests.identity_digest,
        device_uid,
        *thresholds,
        *scored.warnings,
    )
    return Identity(
        sop_class_uid=sop_class,
        sop_instance_uid=sop_instance_uid,
        series_instance_uid=series_uid(sop_instance_uid),
        device_uid=device_uid,
        model_name=scored.model_name,
        model_version=scored.model_version,
        fingerprint=scored.fingerprint,
        status=scored.status,
        application_version=options.application_version,
        created=created,
    )


def finalise(dataset: Dataset) -> BuiltReport:
    """Encode a complete dataset as a DICOM file and compute the file's digest."""
    content = encode(dataset)
    return BuiltReport(
        dataset=dataset,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        content=content,
        content_digest=hashlib.sha256(content).hexdigest(),
    )


def _title(options: ReportOptions, status: PackageStatus) -> Code:
    return codes.RESEARCH_TITLES[status] if options.title == "research" else codes.IMAGING_MEASUREMENT_REPORT
