"""One border, one sharpness and one contrast for the pictures of all sources.

What a source leaves on its pictures beside the patient (dark margins, tone curve, resolution) tells a
network where a picture is from, and in many collections that tells the diagnosis. These steps take a
part of it away, for training and serving alike; ``PixelRecipe`` says which are used.

References
----------
Gonzalez and Woods, "Digital Image Processing", histogram equalisation.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.float32]

_SIDE: Final = 128  # rows and columns of the small picture in which borders are looked for
_MIN_SPREAD: Final = 0.04  # standard deviation of grey along a line: below, it shows nothing
_MOST: Final = 0.2  # share of a side that may be border


def without_borders(grey: Grey) -> Grey:
    """Cut off lines at the edges that show nothing: collimator, black or white margins.

    Parameters
    ----------
    grey
        float32 (rows, columns), in [0, 1].

    Returns
    -------
    A view; at least three fifths of each side.
    """
    kind = cv2.INTER_AREA if min(grey.shape) >= _SIDE else cv2.INTER_LINEAR
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=kind)
    top, bottom = _bounds(small.std(axis=1, dtype=np.float64))
    left, right = _bounds(small.std(axis=0, dtype=np.float64))
    return _cut(grey, (top, bottom), (left, right))


def central(grey: Grey, margin: float) -> Grey:
    """Cut off a share of each side at each of its two ends; a view of at least one pixel."""
    return _cut(grey, (margin, 1 - margin), (margin, 1 - margin))


def equalised(grey: Grey) -> Grey:
    """Give each pixel the share of all pixels that are darker, in [0, 1]: every picture has the same histogram."""
    ordered = np.sort(grey, axis=None)
    darker = np.searchsorted(ordered, grey.ravel(), side="left")
    shares: Grey = (darker / max(1, grey.size - 1)).astype(np.float32).reshape(grey.shape)
    return shares


def _bounds(spread: NDArray[np.float64]) -> tuple[float, float]:
    """Find the first and the last line that shows something, in shares of the side."""
    lines = np.flatnonzero(spread > _MIN_SPREAD)
    if not len(lines):
        return 0.0, 1.0
    return min(lines[0] / _SIDE, _MOST), max((lines[-1] + 1) / _SIDE, 1 - _MOST)


def _cut(grey: Grey, rows: tuple[float, float], columns: tuple[float, float]) -> Grey:
    height, width = grey.shape
    top, left = min(int(rows[0] * height), height - 1), min(int(columns[0] * width), width - 1)
    bottom, right = max(top + 1, round(rows[1] * height)), max(left + 1, round(columns[1] * width))
    return grey[top:bottom, left:right]
