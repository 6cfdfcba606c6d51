"""Encode our objects as DICOM files, deterministically."""

from __future__ import annotations

import warnings
from io import BytesIO

from pydicom import dcmwrite
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from cxr import product


def encode(dataset: Dataset) -> bytes:
    """Encode a dataset as a DICOM file, Explicit VR Little Endian.

    Parameters
    ----------
    dataset
        Object of this application; not changed.

    Returns
    -------
    bytes
        Preamble, File Meta Information and dataset; identical bytes for identical datasets.

    References
    ----------
    DICOM PS3.10 Section 7.1
    """
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(product.IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = product.IMPLEMENTATION_VERSION_NAME
    written = Dataset()
    written.update(dataset)
    written.file_meta = meta
    buffer = BytesIO()
    with warnings.catch_warnings():
        # Suppressed on purpose: pydicom's warnings quote values, which may be a patient's.
        warnings.simplefilter("ignore")
        # Write raw elements unchanged instead of decoding and encoding them again.
        written.set_original_encoding(False, True, _encodings(written))
        dcmwrite(buffer, written, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return buffer.getvalue()


def _encodings(dataset: Dataset) -> str | list[str]:
    """Return the dataset's character sets as Python codec names."""
    terms = dataset.get("SpecificCharacterSet")
    if not terms:
        return default_encoding
    return list(convert_encodings(terms if isinstance(terms, str) else list(terms)))
