"""Read a received dataset into an ``ImageHeader``: absent or malformed attributes are None, bad identifiers an error.

References
----------
DICOM PS3.3 Sections C.12.1 (SOP Common), C.8.11.5 (DX Positioning), C.8.1.1 (CR Series),
C.7.1.1 (Patient: species and breed), C.8.13.2.1.1 (Content Qualification)
"""

from __future__ import annotations

from pydicom.dataset import Dataset

from cxr import product
from cxr.dicom import elements
from cxr.dicom.copied_attributes import COPIED_KEYWORDS, identity_digest
from cxr.dicom.reader import PIXEL_TAGS, READING_FAULTS, HeaderDataset, open_dataset
from cxr.domain import ImageHeader
from cxr.errors import IdentityMismatch, UnparsableObject

__all__ = ["COPIED_KEYWORDS", "HeaderDataset", "identity_digest", "open_dataset", "read_header"]

_HUMAN_CODES = frozenset({("337915000", "SCT"), ("L-85003", "SRT"), ("L-85003", "SNM3"), ("L-85003", "99SDM")})
_HUMAN_WORDS = frozenset({"HUMAN", "HOMO SAPIENS", "HOMO SAPIENS SAPIENS"})


def read_header(dataset: Dataset) -> ImageHeader:
    """Read the attributes of an image that this project uses.

    Parameters
    ----------
    dataset
        A received dataset, with or without pixels. Its elements stay unconverted, so that a report
        can copy them byte for byte.

    Raises
    ------
    IdentityMismatch
        If the SOP Class UID or the SOP Instance UID is absent or malformed.
    UnparsableObject
        If the dataset can't be read.
    """
    try:
        return _read_header(dataset)
    except READING_FAULTS as error:
        raise UnparsableObject(
            f"The received dataset can't be read ({type(error).__name__}); accepted is a dataset as DICOM PS3.5 "
            "defines it: have the sender export the image again."
        ) from error


def _read_header(dataset: Dataset) -> ImageHeader:
    regions = elements.coded(dataset, "AnatomicRegionSequence")
    return ImageHeader(
        sop_class_uid=_required_uid(dataset, "SOPClassUID"),
        sop_instance_uid=_required_uid(dataset, "SOPInstanceUID"),
        study_instance_uid=elements.uid(dataset, "StudyInstanceUID"),
        series_instance_uid=elements.uid(dataset, "SeriesInstanceUID"),
        accession_number=elements.text(dataset, "AccessionNumber"),
        patient_id=elements.text(dataset, "PatientID"),
        issuer_of_patient_id=elements.text(dataset, "IssuerOfPatientID"),
        study_date=elements.text(dataset, "StudyDate"),
        modality=elements.code_string(dataset, "Modality"),
        body_part_examined=elements.code_string(dataset, "BodyPartExamined"),
        anatomic_region=regions[0] if regions else None,
        view_position=elements.code_string(dataset, "ViewPosition"),
        view_codes=elements.coded(dataset, "ViewCodeSequence"),
        patient_orientation=elements.code_strings(dataset, "PatientOrientation"),
        image_laterality=elements.code_string(dataset, "ImageLaterality"),
        series_description=elements.text(dataset, "SeriesDescription"),
        protocol_name=elements.text(dataset, "ProtocolName"),
        study_description=elements.text(dataset, "StudyDescription"),
        processing_description=elements.text(dataset, "AcquisitionDeviceProcessingDescription"),
        presentation_intent_type=elements.code_string(dataset, "PresentationIntentType"),
        image_type=elements.code_strings(dataset, "ImageType"),
        content_qualification=elements.code_string(dataset, "ContentQualification"),
        quality_control_image=elements.code_string(dataset, "QualityControlImage"),
        is_animal=_is_animal(dataset),
        is_own_output=_is_own_output(dataset),
        rows=elements.integer(dataset, "Rows"),
        columns=elements.integer(dataset, "Columns"),
        number_of_frames=elements.integer(dataset, "NumberOfFrames"),
        samples_per_pixel=elements.integer(dataset, "SamplesPerPixel"),
        photometric_interpretation=elements.code_string(dataset, "PhotometricInterpretation"),
        bits_stored=elements.integer(dataset, "BitsStored"),
        has_pixel_data=_has_pixel_data(dataset),
        identity_digest=identity_digest(dataset),
    )


def _required_uid(dataset: Dataset, keyword: str) -> str:
    value = elements.uid(dataset, keyword)
    if value is None:
        fault = "absent or empty" if not elements.raw_bytes(dataset, keyword) else "not a UID"
        raise IdentityMismatch(
            f"{keyword} of the dataset is {fault}; accepted is a UID of at most 64 digits and dots (PS3.5 Section 9): "
            "have the sender correct the image."
        )
    return value


def _is_animal(dataset: Dataset) -> bool:
    """Whether the header names a breed, a species other than human, or a quadruped's orientation."""
    if elements.code_string(dataset, "AnatomicalOrientationType") == "QUADRUPED":
        return True
    described = elements.text(dataset, "PatientSpeciesDescription")
    if described is not None and described.upper() not in _HUMAN_WORDS:
        return True
    species = elements.coded(dataset, "PatientSpeciesCodeSequence")
    if any((code.value, code.scheme_designator) not in _HUMAN_CODES for code in species):
        return True
    has_breed = elements.text(dataset, "PatientBreedDescription") is not None
    return has_breed or bool(elements.coded(dataset, "PatientBreedCodeSequence"))


def _is_own_output(dataset: Dataset) -> bool:
    """Whether this project created the object, by the manufacturer of the equipment and of contributing equipment."""
    manufacturers = [elements.text(dataset, "Manufacturer")]
    manufacturers += [
        elements.text(item, "Manufacturer") for item in elements.items(dataset, "ContributingEquipmentSequence")
    ]
    return product.MANUFACTURER in manufacturers


def _has_pixel_data(dataset: Dataset) -> bool:
    if isinstance(dataset, HeaderDataset) and dataset.has_pixel_data:
        return True
    present = [dataset.get_item(tag) for tag in PIXEL_TAGS if tag in dataset]
    return any(element is not None and bool(element.value) for element in present)
