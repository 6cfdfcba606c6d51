"""Header modules shared by all our objects: the image's identity, our series, equipment and research marks.

References
----------
DICOM PS3.3 Sections C.7.1.1, C.7.2.1, C.7.3.1, C.7.3.2, C.7.5.1, C.12.1, C.17.2
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydicom.charset import default_encoding
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxr import product
from cxr.domain import Code, PackageStatus
from inference.report import codes
from inference.report.copying import EQUIPMENT, copy_identity, copy_valid, has_value, utc_offset
from inference.report.words import wording_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """UIDs of an object, and the model, software and time that produced it."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    device_uid: str
    model_name: str
    model_version: str
    fingerprint: str
    status: PackageStatus
    application_version: str
    created: datetime


def shared_modules(source: Dataset, identity: Identity, *, modality: str, number: int, description: str) -> Dataset:
    """Build Patient, Study, Series, Equipment, Clinical Trial Series and SOP Common, with the research marks.

    Parameters
    ----------
    source
        Received image; its elements stay raw, so that identity keeps its bytes.
    identity
        UIDs, model and time of creation.
    modality
        Modality (0008,0060) of the object.
    number
        Series Number (0020,0011).
    description
        Series Description (0008,103E), without the prefix of the package's status.
    """
    created = _source_time(source, identity.created)
    header = Dataset()
    copy_identity(source, header)
    header.SOPClassUID = identity.sop_class_uid
    header.SOPInstanceUID = identity.sop_instance_uid
    header.InstanceCreationDate, header.InstanceCreationTime = _date_and_time(created)
    header.ContentDate, header.ContentTime = _date_and_time(created)
    header.InstanceNumber = 1
    header.ContentQualification = "RESEARCH"
    header.CodingSchemeIdentificationSequence = Sequence([_private_scheme()])
    header.ContributingEquipmentSequence = Sequence(_contributing_equipment(source, identity, created))
    _add_series(header, identity, created, modality, number, description)
    _add_equipment(header, identity)
    return header


def add_document(header: Dataset, identity: Identity) -> None:
    """Add SR Document Series and SR Document General: partial, preliminary, unverified, by a device.

    Parameters
    ----------
    header
        Report under construction.
    identity
        Model and software, as author.

    References
    ----------
    DICOM PS3.3 Sections C.17.1, C.17.2.7
    """
    header.ReferencedPerformedProcedureStepSequence = Sequence()
    header.PerformedProcedureCodeSequence = Sequence()
    header.PreliminaryFlag = "PRELIMINARY"
    header.CompletionFlag = "PARTIAL"
    header.CompletionFlagDescription = wording_for(identity.status).completion
    header.VerificationFlag = "UNVERIFIED"
    author = Dataset()
    author.ObserverType = "DEV"
    author.StationName = ""
    author.DeviceUID = identity.device_uid
    author.Manufacturer = product.MANUFACTURER
    author.ManufacturerModelName = product.MANUFACTURER_MODEL_NAME
    author.InstitutionName = ""
    author.InstitutionCodeSequence = Sequence()
    header.AuthorObserverSequence = Sequence([author])


def code_item(code: Code) -> Dataset:
    """Build an item of a code sequence (PS3.3 Section 8.8)."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def _add_series(
    header: Dataset, identity: Identity, created: datetime, modality: str, number: int, description: str
) -> None:
    header.Modality = modality
    header.SeriesInstanceUID = identity.series_instance_uid
    header.SeriesNumber = number
    header.SeriesDate, header.SeriesTime = _date_and_time(created)
    header.SeriesDescription = f"{wording_for(identity.status).prefix}{description}"
    header.SeriesDescriptionCodeSequence = Sequence([code_item(codes.FOR_RESEARCH)])
    # Only Clinical Trial Series: Subject and Study are attributes of the image's own patient and study.
    header.ClinicalTrialCoordinatingCenterName = ""
    header.ClinicalTrialSeriesID = "RESEARCH"
    header.ClinicalTrialSeriesDescription = header.SeriesDescription


def _add_equipment(header: Dataset, identity: Identity) -> None:
    header.Manufacturer = product.MANUFACTURER
    header.ManufacturerModelName = product.MANUFACTURER_MODEL_NAME
    header.DeviceUID = identity.device_uid
    header.SoftwareVersions = _software_versions(identity)


def _software_versions(identity: Identity) -> list[str]:
    return [
        f"{product.APPLICATION} {identity.application_version}",
        identity.fingerprint,  # 64 characters, LO's most: not last, where padding could follow
        f"model {identity.model_version}",
    ]


def _contributing_equipment(source: Dataset, identity: Identity, created: datetime) -> list[Dataset]:
    """Describe the acquisition device and the algorithm (IHE AIR Section 6.5.3.1)."""
    acquisition = Dataset()
    # With its original encoding set, pydicom writes the bytes of copied text unchanged.
    acquisition.set_original_encoding(False, True, default_encoding)
    copy_valid(source, acquisition, EQUIPMENT)
    algorithm = Dataset()
    algorithm.Manufacturer = product.MANUFACTURER
    algorithm.ManufacturerModelName = identity.model_name
    algorithm.SoftwareVersions = _software_versions(identity)
    algorithm.DeviceUID = identity.device_uid
    algorithm.ContributionDateTime = created.strftime("%Y%m%d%H%M%S%z")
    algorithm.ContributionDescription = f"{wording_for(identity.status).prefix}{product.NOTICE}"
    algorithm.PurposeOfReferenceCodeSequence = Sequence([code_item(codes.PROCESSING_EQUIPMENT)])
    if not has_value(source, "Manufacturer"):  # type 1 in this sequence
        return [algorithm]
    acquisition.PurposeOfReferenceCodeSequence = Sequence([code_item(codes.ACQUISITION_EQUIPMENT)])
    return [acquisition, algorithm]


def _private_scheme() -> Dataset:
    item = Dataset()
    item.CodingSchemeDesignator = product.CODING_SCHEME_DESIGNATOR
    item.CodingSchemeName = product.CODING_SCHEME_NAME
    item.CodingSchemeResponsibleOrganization = product.MANUFACTURER
    return item


def _source_time(source: Dataset, created: datetime) -> datetime:
    """Convert the time of creation to the image's UTC offset, which applies to all times of the dataset."""
    offset = utc_offset(source)
    return created.astimezone(datetime.strptime(offset, "%z").tzinfo if offset else None)


def _date_and_time(moment: datetime) -> tuple[str, str]:
    return moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
