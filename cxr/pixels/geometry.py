"""Orientation and pixel aspect ratio of an image, from its header.

Models are trained with upright frontal images of square pixels: rows run to the patient's left, columns to the feet.

References
----------
DICOM PS3.3 C.7.6.1.1.1 (Patient Orientation), C.7.6.3.1.7 (Pixel Aspect Ratio), 10.7.1.3 (Pixel Spacing, Imager
Pixel Spacing, Nominal Scanned Pixel Spacing)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cxr.dicom import elements

# In order of preference: calibrated, at the detector, of the scanned film, without physical size.
_SPACINGS: Final = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
_SQUARE_WITHIN: Final = 0.01  # tolerance for rounded decimal strings
_MAX_ASPECT: Final = 8.0  # beyond any detector: the header is wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Transformation to the upright image, and the proportions of its pixels.

    Parameters
    ----------
    is_transposed
        Swap rows and columns, before mirroring.
    is_mirrored
        Swap left and right.
    is_upside_down
        Swap top and bottom.
    aspect
        Height / width of a pixel, after transposition; 1: square.
    """

    is_transposed: bool = False
    is_mirrored: bool = False
    is_upside_down: bool = False
    aspect: float = 1.0

    @property
    def is_upright(self) -> bool:
        """Whether the transformation is the identity."""
        return not (self.is_transposed or self.is_mirrored or self.is_upside_down)

    def upright(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Transform an image to upright.

        Parameters
        ----------
        pixels
            Shape (rows, columns).

        Returns
        -------
        NDArray[Any]
            Shape (rows, columns), or (columns, rows) if transposed; C-contiguous if transformed.
        """
        if self.is_upright:
            return pixels
        image = pixels.T if self.is_transposed else pixels
        image = image[:, ::-1] if self.is_mirrored else image
        return np.ascontiguousarray(image[::-1] if self.is_upside_down else image)

    @property
    def changes_sides(self) -> bool:
        """Whether the transformation is a reflection, which swaps the patient's left and right, not a rotation."""
        return (self.is_transposed + self.is_mirrored + self.is_upside_down) % 2 == 1

    def shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Return height and width of the upright image in square pixels, from Rows and Columns of the received one."""
        height, width = (columns, rows) if self.is_transposed else (rows, columns)
        return max(1, round(height * self.aspect)), width


UPRIGHT: Final = Geometry()


def read_geometry(dataset: Dataset) -> Geometry:
    """Read orientation and aspect ratio; absent or impossible values mean upright and square.

    Only the first letter of a direction counts; further letters describe a tilt. An anterior or posterior direction
    is not of a frontal image, and counts as absent.

    Parameters
    ----------
    dataset
        Header of the image, with or without pixels.

    Returns
    -------
    Geometry
    """
    is_transposed, is_mirrored, is_upside_down = _read_orientation(dataset)
    aspect = _read_aspect(dataset)
    return Geometry(
        is_transposed=is_transposed,
        is_mirrored=is_mirrored,
        is_upside_down=is_upside_down,
        aspect=1 / aspect if is_transposed else aspect,
    )


def _read_orientation(dataset: Dataset) -> tuple[bool, bool, bool]:
    """Return transposed, mirrored, upside down: the steps to rows towards the left and columns towards the feet."""
    directions = elements.code_strings(dataset, "PatientOrientation")
    if len(directions) != 2 or any(set(direction) - set("LRHF") for direction in directions) or not all(directions):
        return False, False, False
    along_rows, along_columns = (direction[0] for direction in directions)
    is_transposed = along_rows in "HF"
    if is_transposed:
        along_rows, along_columns = along_columns, along_rows
    if along_rows not in "LR" or along_columns not in "HF":
        return False, False, False
    return is_transposed, along_rows == "R", along_columns == "H"


def _read_aspect(dataset: Dataset) -> float:
    """Read height / width of a pixel."""
    for keyword in _SPACINGS:
        pair = elements.numbers(dataset, keyword)
        if len(pair) == 2 and min(pair) > 0 and math.isfinite(ratio := pair[0] / pair[1]) and ratio > 0:
            is_square = abs(ratio - 1) <= _SQUARE_WITHIN
            is_possible = 1 / _MAX_ASPECT <= ratio <= _MAX_ASPECT
            return ratio if is_possible and not is_square else 1.0
    return 1.0
