"""Codes of the report's concepts and values.

References
----------
DICOM PS3.16 TID 1500, TID 1501, TID 1600, TID 4019; CID 7010, 7021, 7162; PS3.3 Section 8
"""

from __future__ import annotations

from cxr import product
from cxr.domain import Code, PackageStatus


def _dcm(value: str, meaning: str) -> Code:
    return Code(value=value, scheme_designator="DCM", meaning=meaning)


def _private(value: str, meaning: str) -> Code:
    return Code(value=value, scheme_designator=product.CODING_SCHEME_DESIGNATOR, meaning=meaning)


# Root titles
IMAGING_MEASUREMENT_REPORT = _dcm("126000", "Imaging Measurement Report")
RESEARCH_TITLES = {
    PackageStatus.EVALUATED: _private("RUO-AI-REPORT", "AI research result - NOT FOR CLINICAL USE"),
    PackageStatus.UNTRAINED: _private(
        "RUO-AI-UNTRAINED", "AI research result - UNTRAINED MODEL - NOT FOR CLINICAL USE"
    ),
    PackageStatus.DEMONSTRATION: _private(
        "RUO-AI-DEMO", "AI research result - DEMONSTRATION MODEL - NOT FOR CLINICAL USE"
    ),
}
"""Root titles by status. SR viewers show the title as heading, so the status is part of it."""

# Document
DOCUMENT_TITLE_MODIFIER = _dcm("113011", "Document Title Modifier")
FOR_RESEARCH = _dcm("113009", "For Research")
ENGLISH = Code(value="en", scheme_designator="RFC5646", meaning="English")
DEVICE = _dcm("121007", "Device")
NOTICE = _private("RUO-NOTICE", product.NOTICE)
MODEL = _private("RUO-MODEL", "Model and version")
XR_CHEST_VIEWS = Code(value="30745-4", scheme_designator="LN", meaning="XR Chest Views")
QUALITATIVE_EVALUATIONS = Code(value="C0034375", scheme_designator="UMLS", meaning="Qualitative Evaluations")
COMMENT = _dcm("121106", "Comment")

# Image library
IMAGE_LIBRARY = _dcm("111028", "Image Library")
IMAGE_LIBRARY_GROUP = _dcm("126200", "Image Library Group")
SOURCE = Code(value="260753009", scheme_designator="SCT", meaning="Source")
MODALITY = _dcm("121139", "Modality")
MODALITIES = {
    "CR": _dcm("CR", "Computed Radiography"),
    "DX": _dcm("DX", "Digital Radiography"),
    "OT": _dcm("OT", "Other"),
}
PIXEL_DATA_ROWS = _dcm("110910", "Pixel Data Rows")
PIXEL_DATA_COLUMNS = _dcm("110911", "Pixel Data Columns")
PATIENT_ORIENTATION_ROW = _dcm("111044", "Patient Orientation Row")
PATIENT_ORIENTATION_COLUMN = _dcm("111043", "Patient Orientation Column")
PIXELS = Code(value="{pixels}", scheme_designator="UCUM", meaning="pixels")

# Measurements
IMAGING_MEASUREMENTS = _dcm("126010", "Imaging Measurements")
ARTIFICIAL_INTELLIGENCE = _dcm("123110", "Artificial Intelligence")
CERTAINTY_OF_FINDING = _dcm("111012", "Certainty of Finding")
PERCENT = Code(value="%", scheme_designator="UCUM", meaning="Percent")
SOURCE_OF_MEASUREMENT = _dcm("121112", "Source of Measurement")
OPERATING_POINT = _private("THRESHOLD", "Research operating point of the score")
THRESHOLD_COMPARISON = _private("THRESHOLD-CMP", "Score relative to research operating point")
AT_OR_ABOVE = _private("AT-OR-ABOVE", "At or above research operating point")
BELOW = _private("BELOW", "Below research operating point")

# Equipment and evidence maps
ACQUISITION_EQUIPMENT = _dcm("109101", "Acquisition Equipment")
PROCESSING_EQUIPMENT = _dcm("109102", "Processing Equipment")
SOURCE_FOR_PROCESSING = _dcm("121322", "Source image for image processing operation")
EVIDENCE_MAP = _private("EVIDENCE-MAP", "Evidence map of the score")
CLASS_ACTIVATION = _dcm("130402", "Class activation")
GRAD_CAM = _dcm("130403", "Gradient-weighted class activation")
