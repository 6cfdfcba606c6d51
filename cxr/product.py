"""Identification of this project in DICOM objects, and the notices of its results.

The report's builder writes these values; the view decision reads them, so that a result that a PACS routes
back is never scored.

References
----------
DICOM PS3.5 Section 9.1 and Annex B (UIDs), PS3.3 Section 8.2 (coding scheme designators)
"""

from __future__ import annotations

from uuid import UUID

APPLICATION = "cxr-listener"

MANUFACTURER = "cxr-listener (research)"
"""Manufacturer (0008,0070) of all created objects; the loop guard tests it."""

MANUFACTURER_MODEL_NAME = "cxr-listener"
"""Manufacturer's Model Name (0008,1090) of all created objects."""

CODING_SCHEME_DESIGNATOR = "99CXRLISTENER"
"""Coding Scheme Designator (0008,0102) of the private codes; SH, at most 16 characters."""

CODING_SCHEME_NAME = "cxr-listener research codes, not for clinical use"
"""Coding Scheme Name (0008,0115), for the Coding Scheme Identification Sequence."""

UID_NAMESPACE = UUID("90dbe71c-82fe-563e-ad8c-330acd69fd47")
"""Namespace of all derived UIDs (UUIDv5, encoded as 2.25.<integer>). Never change it."""

NOTICE = "RESEARCH USE ONLY - NOT FOR CLINICAL USE"
"""Notice of every result, in ASCII, so that any character set can encode it."""

NOTICE_SENTENCE = (
    "RESEARCH USE ONLY - NOT FOR CLINICAL USE. This is the output of a research algorithm. It has not been reviewed "
    "by a physician, is not a medical device and must not be used for diagnosis, treatment or any other decision "
    "about a patient."
)
"""The notice in full."""

UNTRAINED = "UNTRAINED MODEL - RANDOM WEIGHTS - THE SCORES MEAN NOTHING"
"""Notice of every result of an untrained package."""

DEMONSTRATION = "DEMONSTRATION MODEL - DID NOT PASS ITS EVALUATION"
"""Notice of every result of a demonstration package, which failed promotion gates or has no evaluation."""

REPORT_SERIES_NUMBER = 9901
"""Series Number (0020,0011) of a report: high, so that the series sorts after the images."""

SALIENCY_SERIES_NUMBER = 9902
"""Series Number (0020,0011) of a saliency Secondary Capture."""

REPORT_SERIES_DESCRIPTION = "AI chest X-ray - RESEARCH USE ONLY"
"""Series Description (0008,103E) of a report; LO, at most 64 characters."""

SALIENCY_SERIES_DESCRIPTION = "AI evidence map - RESEARCH USE ONLY"
"""Series Description (0008,103E) of a saliency Secondary Capture; LO, at most 64 characters."""

GRAD_CAM_SERIES_DESCRIPTION = "AI Grad-CAM - RESEARCH USE ONLY"
"""Series Description (0008,103E) of a saliency Secondary Capture made with Grad-CAM; LO, at most 64 characters."""

IMPLEMENTATION_CLASS_UID = "2.25.85532428576379081656544411629450083756"
"""Implementation Class UID (0002,0012) of written files and of associations: the UUIDv5 of
``implementation`` and `APPLICATION` under `UID_NAMESPACE` (PS3.7 Section D.3.3.2)."""

IMPLEMENTATION_VERSION_NAME = "CXR_LISTENER"
"""Implementation Version Name (0002,0013); SH, at most 16 characters."""
