"""Make a DICOM file of a BIMCV PNG and the JSON file of its attributes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from cxr.dicom import READING_FAULTS
from cxr.errors import ManifestError
from training.files import whole_file

_TAGS = frozenset(
    {
        0x00080020, 0x00080060, 0x00080070, 0x00081090, 0x00100040, 0x00101010, 0x00180015, 0x00185101,
        0x00280004, 0x00280101, 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281056, 0x00283010, 0x20500020,
    }
)  # fmt: skip
"""Copied attributes: acquisition, sex, age, display of values. The Image Pixel attributes come from the PNG."""


def convert(picture: Path, attributes: Mapping[str, Any], folder: Path) -> Path | None:
    """Write a DICOM file.

    Parameters
    ----------
    picture
        A grey PNG of 8 or 16 bits: stored values.
    attributes
        In the DICOM JSON Model (PS3.18 Annex F).
    folder
        Of the new file, which has the picture's name.

    Returns
    -------
    Path or None
        None if the picture or its attributes can't be used (another form or damaged).

    Raises
    ------
    ManifestError
        If the file can't be written.
    """
    values = cv2.imread(str(picture), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
        return None
    try:
        dataset = _dataset(attributes)
        stored_bits = int(dataset.get("BitsStored") or 0)
    except READING_FAULTS:
        return None
    bits = values.dtype.itemsize * 8
    needed = max(int(values.max()).bit_length(), 1)
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = bits
    # Bits Stored of the attributes, if the values fit: it is the range of an inversion.
    dataset.BitsStored = stored_bits if needed <= stored_bits <= bits else bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelData = values.tobytes()
    dataset["PixelData"].VR = "OW"
    target = folder / f"{picture.stem}.dcm"
    _save(dataset, picture.name, target)
    return target


def _dataset(attributes: Mapping[str, Any]) -> Dataset:
    copied = {tag: value for tag, value in attributes.items() if len(tag) == 8 and int(tag, 16) in _TAGS}
    dataset = Dataset.from_json({tag: _with_vr(tag, value) for tag, value in copied.items()})
    if dataset.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        dataset.PhotometricInterpretation = "MONOCHROME2"
    return dataset


def _with_vr(tag: str, value: Any) -> Any:  # noqa: ANN401 (JSON)
    """Return an attribute with its value representation, which some of BIMCV's files lack."""
    from pydicom.datadict import dictionary_VR  # noqa: PLC0415

    if not isinstance(value, dict):
        raise TypeError(tag)
    return value if "vr" in value else {"vr": dictionary_VR(int(tag, 16)), **value}


def _save(dataset: Dataset, name: str, target: Path) -> None:
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[name])
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta = meta
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target, private=True) as stream:
            dataset.save_as(stream, enforce_file_format=True)
    except OSError as error:
        raise ManifestError(
            f"A DICOM file can't be written ({type(error).__name__}): name a folder that you may write to with "
            "--converted."
        ) from error
