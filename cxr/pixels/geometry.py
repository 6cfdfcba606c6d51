"""How an image lies, by its header: turned, mirrored, with pixels that are not square.

The model was trained with upright frontal films of square pixels: rows run to the patient's left, columns to the feet.

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

# The first that is there counts: calibrated, at the detector, of the scanned film; last Pixel Aspect Ratio.
_SPACINGS: Final = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
_SQUARE_WITHIN: Final = 0.01  # rounding of written spacings
_MOST_UNEQUAL: Final = 8.0  # no detector has such pixels: the header is wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How to make an image upright, and the proportions of its pixels.

    Parameters
    ----------
    is_transposed
        Rows and columns are to be swapped; before the image is mirrored.
    is_mirrored
        Left and right are to be swapped.
    is_upside_down
        Top and bottom are to be swapped.
    aspect
        Height of a pixel in shares of its width, after rows and columns were swapped; 1: square.
    """

    is_transposed: bool = False
    is_mirrored: bool = False
    is_upside_down: bool = False
    aspect: float = 1.0

    @property
    def is_upright(self) -> bool:
        """Whether the pixels stay where they are."""
        return not (self.is_transposed or self.is_mirrored or self.is_upside_down)

    def upright(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Turn and mirror an image upright.

        Parameters
        ----------
        pixels
            Shape (rows, columns).

        Returns
        -------
        NDArray[Any]
            Shape (rows, columns), or (columns, rows) where they are swapped; in one block of memory.
        """
        if self.is_upright:
            return pixels
        turned = pixels.T if self.is_transposed else pixels
        turned = turned[:, ::-1] if self.is_mirrored else turned
        return np.ascontiguousarray(turned[::-1] if self.is_upside_down else turned)

    @property
    def changes_sides(self) -> bool:
        """Whether left and right of the patient change sides: a reflection, not a rotation."""
        return (self.is_transposed + self.is_mirrored + self.is_upside_down) % 2 == 1

    def shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Return the proportions of the upright image in square pixels, from its Rows and Columns."""
        height, width = (columns, rows) if self.is_transposed else (rows, columns)
        return max(1, round(height * self.aspect)), width


UPRIGHT: Final = Geometry()


def read_geometry(dataset: Dataset) -> Geometry:
    """Read how an image lies; what is absent or impossible counts as upright and square.

    Only the first letter of a direction is looked at: the others tell of a tilt. A direction towards the front or
    the back is not of a frontal film, and turns nothing.

    Parameters
    ----------
    dataset
        Of the image, with or without pixels.

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
    """Read which steps make the rows run to the patient's left and the columns to the feet."""
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
    """Read the height of a pixel in shares of its width."""
    for keyword in _SPACINGS:
        pair = elements.numbers(dataset, keyword)
        if len(pair) == 2 and min(pair) > 0 and math.isfinite(ratio := pair[0] / pair[1]) and ratio > 0:
            is_square = abs(ratio - 1) <= _SQUARE_WITHIN
            is_possible = 1 / _MOST_UNEQUAL <= ratio <= _MOST_UNEQUAL
            return ratio if is_possible and not is_square else 1.0
    return 1.0
