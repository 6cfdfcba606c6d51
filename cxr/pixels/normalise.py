"""Normalise borders, sharpness and contrast across sources.

Borders, tone curve and resolution identify the source of an image, and in many collections the source predicts the
diagnosis (a shortcut). These steps remove part of that information, in training and serving alike; ``PixelRecipe``
selects them.

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

_SIDE: Final = 128  # rows and columns of the reduced image in which borders are detected
_MIN_SPREAD: Final = 0.04  # standard deviation of grey along a line; below it, the line is border
_MAX_BORDER: Final = 0.2  # largest border at an edge, as a share of the side


def without_borders(grey: Grey) -> Grey:
    """Cut off uniform lines at the edges: collimator shutters, black or white margins.

    Parameters
    ----------
    grey
        float32 (rows, columns), in [0, 1].

    Returns
    -------
    A view of the array; at least three fifths of each side.
    """
    kind = cv2.INTER_AREA if min(grey.shape) >= _SIDE else cv2.INTER_LINEAR
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=kind)
    top, bottom = _bounds(small.std(axis=1, dtype=np.float64))
    left, right = _bounds(small.std(axis=0, dtype=np.float64))
    return _cut(grey, (top, bottom), (left, right))


def central(grey: Grey, margin: float) -> Grey:
    """Return a view without a share (``margin``, below 0.5) of rows and columns at each edge; at least one pixel."""
    return _cut(grey, (margin, 1 - margin), (margin, 1 - margin))


def equalised(grey: Grey) -> Grey:
    """Return the share of darker pixels at each pixel, in [0, 1]: histogram equalisation by rank."""
    ordered = np.sort(grey, axis=None)
    darker = np.searchsorted(ordered, grey.ravel(), side="left")
    shares: Grey = (darker / max(1, grey.size - 1)).astype(np.float32).reshape(grey.shape)
    return shares


def _bounds(spread: NDArray[np.float64]) -> tuple[float, float]:
    """Return first and last line that are not border, as shares of the side."""
    lines = np.flatnonzero(spread > _MIN_SPREAD)
    if not len(lines):
        return 0.0, 1.0
    return min(lines[0] / _SIDE, _MAX_BORDER), max((lines[-1] + 1) / _SIDE, 1 - _MAX_BORDER)


def _cut(grey: Grey, rows: tuple[float, float], columns: tuple[float, float]) -> Grey:
    height, width = grey.shape
    top, left = min(int(rows[0] * height), height - 1), min(int(columns[0] * width), width - 1)
    bottom, right = max(top + 1, round(rows[1] * height)), max(left + 1, round(columns[1] * width))
    return grey[top:bottom, left:right]
