"""Copy attributes from a source image into our objects, byte for byte.

Identity is never shortened or repaired: a PACS or a validator treats other bytes as another patient. Type 2
dates, times and coded values that are invalid become empty, and invalid optional values are omitted, so that a
defect of the image is not repeated in our objects.

References
----------
DICOM PS3.3 Sections C.7.1.1, C.7.1.3, C.7.2.1, C.7.2.2, C.12.1; PS3.5 Sections 6.1, 6.2
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from datetime import datetime

from pydicom import config
from pydicom.charset import decode_bytes
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, TEXT_VR_DELIMS, validate_value

from cxr.dicom import elements

_TIME = re.compile(rb"(?:[01]\d|2[0-3])(?:[0-5]\d(?:(?:[0-5]\d|60)(?:\.\d{1,6})?)?)?\Z")
_OFFSET = re.compile(rb"[+-](?:0\d|1[0-4])[0-5]\d\Z")


def _is_date(value: bytes) -> bool:
    try:
        parsed = datetime.strptime(value.decode("ascii", "replace"), "%Y%m%d")  # noqa: DTZ007 (a day, no moment)
    except ValueError:
        return False
    return parsed.strftime("%Y%m%d").encode() == value  # strptime also takes 2020041


def _is_time(value: bytes) -> bool:
    return bool(_TIME.match(value))


def _is_sex(value: bytes) -> bool:
    return value in {b"M", b"F", b"O"}


VERBATIM = ("PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName")
"""Identity, type 2: copied unchanged, or empty if absent."""

CHECKED: dict[str, Callable[[bytes], bool]] = {
    "PatientBirthDate": _is_date,
    "PatientSex": _is_sex,
    "StudyDate": _is_date,
    "StudyTime": _is_time,
}
"""Type 2 with a defined format: copied unchanged, or empty if invalid; the value is the format's check."""

OPTIONAL = ("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription")
"""Type 3, patient and study: copied if valid, else absent."""

DEIDENTIFICATION = ("PatientIdentityRemoved", "DeidentificationMethod")
"""De-identification status and method: copied together, or not at all."""

TRIAL_SUBJECT_REQUIRED = ("ClinicalTrialSponsorName", "ClinicalTrialProtocolID")
TRIAL_SUBJECT_EMPTIABLE = ("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName")
TRIAL_SUBJECT_EITHER = ("ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID")
"""Clinical Trial Subject: copied only if the image has the complete module."""

TRIAL_STUDY = ("ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription")
"""Clinical Trial Study: copied only if the image has the module."""

EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "StationName", "DeviceSerialNumber", "SoftwareVersions")
"""Acquisition device, for Contributing Equipment: copied if valid."""

COPIED = (
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    "StudyInstanceUID",
    *VERBATIM,
    *CHECKED,
    *OPTIONAL,
    *DEIDENTIFICATION,
    *TRIAL_SUBJECT_REQUIRED,
    *TRIAL_SUBJECT_EMPTIABLE,
    *TRIAL_SUBJECT_EITHER,
    *TRIAL_STUDY,
    *EQUIPMENT,
)
"""All copied attributes."""


def copy_identity(source: Dataset, target: Dataset) -> None:
    """Copy the identity of patient and study, with its Specific Character Set.

    Parameters
    ----------
    source
        Received image. Raw elements are copied byte for byte and stay raw.
    target
        Object under construction.
    """
    for keyword in ("SpecificCharacterSet", "StudyInstanceUID"):
        copy_element(source, target, keyword)
    for keyword in VERBATIM:
        _copy_or_empty(source, target, keyword)
    for keyword, is_valid in CHECKED.items():
        _copy_or_empty(source if is_valid(_bytes(source, keyword)) else Dataset(), target, keyword)
    if utc_offset(source) is not None:
        copy_element(source, target, "TimezoneOffsetFromUTC")
    copy_valid(source, target, OPTIONAL)
    _copy_deidentification(source, target)
    _copy_trial(source, target)


def copy_valid(source: Dataset, target: Dataset, keywords: tuple[str, ...]) -> None:
    """Copy the attributes that are valid or empty in the image.

    Parameters
    ----------
    source
        Received image.
    target
        Object under construction, or an item of one of its sequences.
    keywords
        Keywords of the attributes.
    """
    for keyword in keywords:
        if _is_valid(source, keyword):
            copy_element(source, target, keyword)


def copy_element(source: Dataset, target: Dataset, keyword: str) -> bool:
    """Copy one element unchanged.

    Returns
    -------
    bool
        Whether the source has the element.
    """
    element = elements.find(source, keyword)
    if element is None:
        return False
    if isinstance(element, RawDataElement):
        value = element.value or b""
        vr = dictionary_VR(element.tag)
        # Padding is not part of the value, and often the wrong character.
        value = value.rstrip(b" \0" if vr == "UI" else b"\0")
        value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        # VR from the dictionary: implicit VR sources have none, and some explicit ones a wrong one.
        element = element._replace(VR=vr, length=len(value), value=value, is_implicit_VR=False, is_little_endian=True)
    target[element.tag] = copy.deepcopy(element)
    return True


def utc_offset(source: Dataset) -> str | None:
    """Timezone Offset From UTC (0008,0201) of the image, ``+HHMM``, or None."""
    value = _bytes(source, "TimezoneOffsetFromUTC")
    return value.decode("ascii") if _OFFSET.match(value) else None


def _copy_or_empty(source: Dataset, target: Dataset, keyword: str) -> None:
    if not copy_element(source, target, keyword):
        setattr(target, keyword, "")


def _copy_deidentification(source: Dataset, target: Dataset) -> None:
    removed, method = DEIDENTIFICATION
    answer = elements.code_string(source, removed)
    # YES requires the method (type 1C).
    if answer == "NO" or (answer == "YES" and has_value(source, method)):
        copy_element(source, target, removed)
        copy_valid(source, target, (method,))


def _copy_trial(source: Dataset, target: Dataset) -> None:
    has_subject = any(has_value(source, keyword) for keyword in TRIAL_SUBJECT_EITHER)
    if has_subject and all(has_value(source, keyword) for keyword in TRIAL_SUBJECT_REQUIRED):
        copy_valid(source, target, TRIAL_SUBJECT_REQUIRED)
        for keyword in TRIAL_SUBJECT_EMPTIABLE:
            _copy_or_empty(source if _is_valid(source, keyword) else Dataset(), target, keyword)
        for keyword in TRIAL_SUBJECT_EITHER:
            if has_value(source, keyword):
                copy_element(source, target, keyword)
    if _is_valid(source, TRIAL_STUDY[0]):
        copy_valid(source, target, TRIAL_STUDY)


def _bytes(source: Dataset, keyword: str) -> bytes:
    return (elements.raw_bytes(source, keyword) or b"").strip(b" \0")


def has_value(source: Dataset, keyword: str) -> bool:
    """Return whether the source has the element with a valid value that is not empty."""
    return bool(_bytes(source, keyword)) and _is_valid(source, keyword)


def _is_valid(source: Dataset, keyword: str) -> bool:
    """Return whether the source has the element and each of its values is valid for its VR."""
    element = elements.find(source, keyword)
    if element is None:
        return False
    vr = dictionary_VR(element.tag)
    encodings = list(elements.codecs(source)) if vr in CUSTOMIZABLE_CHARSET_VR else ["ascii"]
    with warnings.catch_warnings():
        # Suppressed on purpose: pydicom's warnings quote values, which may be a patient's.
        warnings.simplefilter("ignore")
        try:
            text = decode_bytes(elements.element_bytes(element, encodings), encodings, TEXT_VR_DELIMS)
            for value in text.split("\\"):
                validate_value(vr, value.strip(), config.RAISE)
        except (ValueError, LookupError):
            return False
    return True
