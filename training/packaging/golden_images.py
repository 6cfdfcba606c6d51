"""Choose golden images for a package, and remove everything but the pixels and their display from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from cxr.errors import ImageError
from cxr.package.golden_images import GOLDEN_FILE, MAX_GOLDEN_IMAGES, to_golden_document
from cxr.pixels.model_input import read_image, to_model_input
from cxr.pixels.recipe import PixelRecipe

COUNT: Final = 10

KEYWORDS: Final = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleIntercept", "RescaleSlope", "RescaleType", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("PresentationLUTShape", "PixelData"),
    *("PatientOrientation", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"),
)
"""Elements that a golden DICOM file keeps: pixels and their display. No patient, study or device."""

_LUT_KEYWORDS: Final = ("LUTDescriptor", "LUTData")


@dataclass(frozen=True, slots=True)
class GoldenImage:
    """One golden image of a package."""

    candidate: int  # index among the candidates
    name: str  # of its file in the package
    content: bytes
    probabilities: tuple[float, ...]  # in the order of the classes


def choose_golden(
    images: Sequence[tuple[Path, Sequence[float]]], recipe: PixelRecipe, *, count: int = COUNT
) -> list[GoldenImage]:
    """Choose a package's golden images.

    Parameters
    ----------
    images
        File and probabilities (in the order of the classes) of each candidate, e.g. of the test
        images; ``count`` of them are chosen, evenly spaced.
    recipe
        The package's; an image whose stripped copy has a different model input is skipped.
    count
        Number of images, at most 32.

    Returns
    -------
    list[GoldenImage]
        In the order of the candidates; empty if no image can be used.
    """
    golden: list[GoldenImage] = []
    for candidate in _spread(len(images), min(count, MAX_GOLDEN_IMAGES)):
        path, probabilities = images[candidate]
        stripped = _stripped(path, recipe)
        if stripped is not None:
            suffix, content = stripped
            name = f"golden-{len(golden):02}.{suffix}"
            golden.append(GoldenImage(candidate, name, content, tuple(float(value) for value in probabilities)))
    return golden


def golden_contents(golden: Sequence[GoldenImage]) -> Mapping[str, bytes]:
    """Return the files of a package's golden images: name to content, ``golden.json`` among them."""
    if not golden:
        return {}
    document = to_golden_document([(each.name, each.probabilities) for each in golden])
    return {each.name: each.content for each in golden} | {GOLDEN_FILE: document}


def _spread(candidates: int, count: int) -> Sequence[int]:
    return [int(index) for index in np.unique(np.linspace(0, candidates - 1, min(count, candidates)).astype(int))]


def _stripped(path: Path, recipe: PixelRecipe) -> tuple[str, bytes] | None:
    try:
        source = read_image(path)
        if not isinstance(source, Dataset):
            return "png", _as_png(source)
        if source.get("BurnedInAnnotation") == "YES":
            return None  # a name may be burned into the pixels
        before = to_model_input(source, recipe)
        content = _as_dicom(source)
        after = to_model_input(pydicom.dcmread(BytesIO(content)), recipe)
    except (ImageError, OSError):
        return None
    return ("dcm", content) if np.array_equal(before, after) else None


def _as_png(pixels: NDArray[np.uint8 | np.uint16]) -> bytes:
    """Encode the pixels anew, without metadata of the file (EXIF, comments)."""
    colours = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    return bytes(cv2.imencode(".png", np.ascontiguousarray(colours))[1].tobytes())


def _as_dicom(source: Dataset) -> bytes:
    copy = Dataset()
    for keyword in KEYWORDS:
        if keyword in source:
            copy[keyword] = source[keyword]
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        if keyword in source:
            setattr(copy, keyword, [_table(item) for item in source[keyword].value])
    copy.SOPClassUID = SecondaryCaptureImageStorage
    # Derived from the pixels alone: a UID derived from the original UID could be recognised.
    copy.SOPInstanceUID = generate_uid("2.25.", [hashlib.sha256(source.PixelData).hexdigest()])
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
    copy.file_meta.MediaStorageSOPClassUID = copy.SOPClassUID
    copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
    buffer = BytesIO()
    copy.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _table(source: Dataset) -> Dataset:
    """Return a LUT without LUTExplanation, which is free text."""
    table = Dataset()
    for keyword in _LUT_KEYWORDS:
        if keyword in source:
            table[keyword] = source[keyword]
    return table
