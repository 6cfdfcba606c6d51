"""Attributes that a report copies from its image, and their digest.

A PACS may correct a patient's name and resend the image under the same SOP Instance UID. The digest
then differs and the new report has new UIDs: changed content is never sent under an old UID.
"""

from __future__ import annotations

from blake3 import blake3
from pydicom.dataset import Dataset

from cxr.dicom import elements

COPIED_KEYWORDS: tuple[str, ...] = (
    # Encoding (PS3.3 Section C.12.1)
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    # Patient (C.7.1.1)
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    # General Study and Patient Study (C.7.2.1, C.7.2.2)
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "StudyDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    # Clinical Trial Subject and Study (C.7.1.3, C.7.2.3), if present
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
    # Equipment (C.7.5.1, C.12.1)
    "Manufacturer",
    "ManufacturerModelName",
    "StationName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    # References of the content tree to the image
    "SOPClassUID",
    "SeriesInstanceUID",
    "Modality",
    "Rows",
    "Columns",
    "PatientOrientation",
)
"""All attributes that a report copies."""

SCORED_KEYWORDS: tuple[str, ...] = (
    "PhotometricInterpretation",
    "BitsStored",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
)
"""Attributes that change the meaning of the stored pixels, and so the score of unchanged Pixel Data."""

_BINARY = frozenset(
    {"Rows", "Columns", "BitsStored", "PixelRepresentation"}
)  # US: the bytes depend on the transfer syntax, the number does not
_ABSENT, _PRESENT = b"\0", b"\1"


def identity_digest(dataset: Dataset) -> str:
    """Digest the attributes that a report copies, and those that its scores depend on.

    Values enter as received bytes, with Specific Character Set; trailing padding and the transfer syntax
    are ignored. An absent element and an empty one differ.

    Parameters
    ----------
    dataset
        A received header; its elements stay unconverted.

    Returns
    -------
    str
        BLAKE3, in hex.
    """
    # Keyword, presence and length precede each value: different values never concatenate to equal bytes.
    message = bytearray()
    for keyword in (*COPIED_KEYWORDS, *SCORED_KEYWORDS):
        value = _value(dataset, keyword)
        message += keyword.encode("ascii")
        message += _ABSENT if value is None else _PRESENT + len(value).to_bytes(8, "big") + value
    return blake3(message).hexdigest()


def _value(dataset: Dataset, keyword: str) -> bytes | None:
    if keyword in _BINARY and elements.find(dataset, keyword) is not None:
        return str(elements.integer(dataset, keyword)).encode("ascii")
    return elements.raw_bytes(dataset, keyword)
