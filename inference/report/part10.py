"""The bytes of an object of ours: a complete DICOM file, the same for the same dataset."""

from __future__ import annotations

import warnings
from io import BytesIO

from pydicom import dcmwrite
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from cxr import product


def encode(dataset: Dataset) -> bytes:
    """Write a dataset as a DICOM file, Explicit VR Little Endian.

    Parameters
    ----------
    dataset
        An object of ours; it is not changed.

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
        # On purpose: pydicom names values in its warnings, and these would be a patient's.
        warnings.simplefilter("ignore")
        # Elements that were copied byte for byte are written so, not decoded and encoded again.
        written.set_original_encoding(False, True, _encodings(written))
        dcmwrite(buffer, written, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return buffer.getvalue()


def _encodings(dataset: Dataset) -> str | list[str]:
    """Name the dataset's character set as pydicom does."""
    terms = dataset.get("SpecificCharacterSet")
    if not terms:
        return default_encoding
    return list(convert_encodings(terms if isinstance(terms, str) else list(terms)))
