"""Read DICOM files: elements, bounded reading, the header, copied attributes, transfer syntaxes."""

from __future__ import annotations

from cxr.dicom.header import read_header
from cxr.dicom.reader import READING_FAULTS, HeaderDataset, open_dataset, open_with_pixels

__all__ = ["READING_FAULTS", "HeaderDataset", "open_dataset", "open_with_pixels", "read_header"]
