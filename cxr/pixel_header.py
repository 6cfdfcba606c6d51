"""What an image's header says of its pixels, and whether they are to be decoded at all.

A header of 900 bytes can promise 4 gigapixels: everything here is looked at before any pixel is.

References
----------
DICOM PS3.3 C.7.6.3 (Image Pixel Module)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cxr import elements
from cxr.errors import DamagedPixels, MissingPixels, UnsupportedPixels
from cxr.recipe import PixelRecipe
from cxr.syntaxes import DECODABLE_SYNTAXES

DEFAULT_MAX_MEGAPIXELS: Final = 64
"""Rows x Columns, in millions; a 43 x 43 cm film at 0.1 mm has 18."""

MONOCHROME: Final = frozenset({"MONOCHROME1", "MONOCHROME2"})
"""Photometric interpretations of radiographs."""

_ONE_SAMPLE: Final = MONOCHROME | {"PALETTE COLOR"}
_BITS_ALLOCATED: Final = (1, 8, 16, 32)
_FLOAT_PIXELS: Final = ("FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelHeader:
    """The Image Pixel Module of an image that may be decoded."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    samples: int
    photometric: str
    planar: int  # 0: colour by pixel, 1: by plane
    syntax: UID

    @property
    def frame_bytes(self) -> int:
        """Length of one frame that is not compressed."""
        samples = self.rows * self.columns * self.samples
        if self.photometric == "YBR_FULL_422":
            samples = samples // 3 * 2
        return (samples * self.bits_allocated + 7) // 8


def check_header(dataset: Dataset, recipe: PixelRecipe, *, max_megapixels: int) -> PixelHeader:
    """Read the Image Pixel Module and refuse what is not to be decoded; touches no pixel.

    Raises
    ------
    UnsupportedPixels
        More than one frame, colour that the recipe does not accept, floating point, a bit depth
        other than 1, 8, 16, 32, an unknown transfer syntax, or too large.
    DamagedPixels
        An element that every image has is absent or impossible.
    """
    if any(keyword in dataset for keyword in _FLOAT_PIXELS):
        raise UnsupportedPixels("Received floating-point pixels; accepted are whole numbers of 1, 8, 16 or 32 bits.")
    _check_frames(dataset)
    rows, columns = _needed(dataset, "Rows"), _needed(dataset, "Columns")
    allocated = _needed(dataset, "BitsAllocated")
    if allocated not in _BITS_ALLOCATED:
        raise UnsupportedPixels(f"Received {allocated} bits allocated; accepted are 1, 8, 16 and 32.")
    stored = elements.integer(dataset, "BitsStored") or allocated
    if not 1 <= stored <= allocated:
        raise DamagedPixels(f"Received {stored} bits stored in {allocated} allocated: have the image exported again.")
    high_bit = elements.integer(dataset, "HighBit")
    photometric = elements.code_string(dataset, "PhotometricInterpretation")
    if photometric is None:
        raise UnsupportedPixels(
            "Photometric Interpretation is absent or empty; accepted are MONOCHROME1 and MONOCHROME2: have the sender "
            "export the image again."
        )
    samples = elements.integer(dataset, "SamplesPerPixel") or (1 if photometric in _ONE_SAMPLE else 3)
    is_possible = high_bit is not None and stored - 1 <= high_bit < allocated
    header = PixelHeader(
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit if is_possible and high_bit is not None else stored - 1,
        is_signed=elements.integer(dataset, "PixelRepresentation") == 1,
        samples=samples,
        photometric=photometric,
        planar=1 if elements.integer(dataset, "PlanarConfiguration") == 1 else 0,
        syntax=_syntax(dataset),
    )
    _check_size(header, max_megapixels)
    _check_colour(header, recipe)
    return header


def _check_frames(dataset: Dataset) -> None:
    frames = elements.integer(dataset, "NumberOfFrames")
    if frames is None and elements.text(dataset, "NumberOfFrames"):
        raise DamagedPixels("Number of Frames is not a number: have the sender export the image again.")
    if frames is not None and frames > 1:
        raise UnsupportedPixels(f"Received {frames} frames; accepted is one: send single images.")


def _needed(dataset: Dataset, keyword: str) -> int:
    value = elements.integer(dataset, keyword)
    if value is None or value < 1:
        if not any(keyword in dataset for keyword in ("PixelData", "Rows")):
            raise MissingPixels("The object is not an image: it has neither pixel data nor Rows; send images.")
        raise DamagedPixels(f"{keyword} is absent, zero or not a number: have the sender export the image again.")
    return value


def _check_size(header: PixelHeader, max_megapixels: int) -> None:
    # The values of a 32-bit image are sorted, not counted: eight times the memory.
    weight = header.samples * (8 if header.bits_allocated > 16 else 1)
    if header.rows * header.columns * weight > max_megapixels * 1_000_000:
        raise UnsupportedPixels(
            f"Received {header.rows} x {header.columns} pixels (counted {weight}-fold); accepted are "
            f"{max_megapixels} megapixels: raise worker.max_megapixels if this is a radiograph."
        )


def _check_colour(header: PixelHeader, recipe: PixelRecipe) -> None:
    if header.samples == 1 and header.photometric in MONOCHROME:
        return
    is_colour = (header.samples, header.photometric == "PALETTE COLOR") in {(3, False), (1, True)}
    if not is_colour or header.photometric in MONOCHROME or header.bits_allocated not in {8, 16}:
        raise UnsupportedPixels(
            "Received neither MONOCHROME1 nor MONOCHROME2 nor 8- or 16-bit colour of three samples: send radiographs."
        )
    if recipe.colour != "luminance":
        raise UnsupportedPixels("Received a colour image; accepted are MONOCHROME1 and MONOCHROME2: send radiographs.")


def _syntax(dataset: Dataset) -> UID:
    """Give the transfer syntax; without file meta information, what the reader found."""
    meta = getattr(dataset, "file_meta", None)
    declared = meta.get("TransferSyntaxUID") if meta is not None else None
    if not declared:
        is_implicit, is_little = dataset.original_encoding
        explicit = ExplicitVRBigEndian if is_little is False else ExplicitVRLittleEndian
        return explicit if is_implicit is False else ImplicitVRLittleEndian
    if declared not in DECODABLE_SYNTAXES:
        raise UnsupportedPixels(
            "Received pixels in a transfer syntax that has no decoder here; accepted are those of the conformance "
            "statement: have the sender convert the image, e.g. to Explicit VR Little Endian."
        )
    return UID(declared)
