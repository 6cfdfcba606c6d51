"""Which attributes of an image a report takes over, and a digest of them.

A PACS corrects a patient's name and sends the image again under the same SOP Instance UID: the
digest differs, so the report that follows has UIDs of its own, and changed content never travels
under an old UID.
"""

from __future__ import annotations

from blake3 import blake3
from pydicom.dataset import Dataset

from cxr.dicom import elements

COPIED_KEYWORDS: tuple[str, ...] = (
    # How to read the rest (PS3.3 Section C.12.1)
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
    # Clinical Trial Subject and Study (C.7.1.3, C.7.2.3), where the image has them
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
    # The device that made the image (C.7.5.1, C.12.1)
    "Manufacturer",
    "ManufacturerModelName",
    "StationName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    # How the tree refers to the image, and what it says of it
    "SOPClassUID",
    "SeriesInstanceUID",
    "Modality",
    "Rows",
    "Columns",
    "PatientOrientation",
)
"""Every attribute that a report takes over; a report takes over no other."""

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
"""How the stored pixels are read: the same Pixel Data, said to be inverted, scores otherwise."""

_BINARY = frozenset(
    {"Rows", "Columns", "BitsStored", "PixelRepresentation"}
)  # US: the bytes depend on the transfer syntax, the number does not
_ABSENT, _PRESENT = b"\0", b"\1"


def identity_digest(dataset: Dataset) -> str:
    """Digest the attributes that a report takes over, and those that its scores depend on.

    Values count as the bytes they came in, together with the character set that tells how to read
    them; trailing padding and the transfer syntax don't count. An absent element and an empty one
    differ.

    Parameters
    ----------
    dataset
        A received header; it stays unconverted.

    Returns
    -------
    str
        BLAKE3, in hex.
    """
    digest = blake3()
    for keyword in (*COPIED_KEYWORDS, *SCORED_KEYWORDS):
        value = _value(dataset, keyword)
        # Keyword, mark and length frame each value: no two lists of values run into the same bytes.
        digest.update(keyword.encode("ascii"))
        digest.update(_ABSENT if value is None else _PRESENT + len(value).to_bytes(8, "big") + value)
    return digest.hexdigest()


def _value(dataset: Dataset, keyword: str) -> bytes | None:
    if keyword in _BINARY and elements.find(dataset, keyword) is not None:
        return str(elements.integer(dataset, keyword)).encode("ascii")
    return elements.raw_bytes(dataset, keyword)
