"""Quality checks: test whether the model's input looks like a frontal chest radiograph.

A failed check adds a warning code to the scores, in the report and in the audit database; the image is still scored.
The limits were chosen on 2,423 public frontal radiographs: each check warns on fewer than 1 in 100 of them, and
``inverted`` on 97 of 100 of their negatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cxr.pixels.normalise import equalised

Pixels = NDArray[np.float32]

INVERTED: Final = "inverted"
CLIPPED: Final = "clipped"
ASPECT: Final = "aspect"
FLAT: Final = "flat"
OUTLIER: Final = "outlier"
UNSURE: Final = "unsure"
ONE_LUNG: Final = "one_lung"
LOOKS_LATERAL: Final = "looks_lateral"
LOOKS_NOT_A_CHEST: Final = "looks_not_a_chest"
VIEW_FROM_PIXELS: Final = "view_from_pixels"
VIEW_UNSURE: Final = "view_unsure"
TURNED: Final = "turned"

WARNINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        INVERTED: "The lungs are brighter than the mediastinum: the image is probably inverted.",
        CLIPPED: "A large part of the image is black or white.",
        ASPECT: "One side of the image is much longer than the other.",
        FLAT: "The image has very few grey levels.",
        OUTLIER: "The image is an outlier to the training images (Mahalanobis distance of its features).",
        UNSURE: "The conformal set holds both answers, or neither (split-conformal prediction).",
        ONE_LUNG: "Nearly all of the lung mask lies on one side of the image.",
        LOOKS_LATERAL: "The view model classifies the image as a lateral chest radiograph.",
        LOOKS_NOT_A_CHEST: "The view model does not classify the image as a chest radiograph.",
        VIEW_UNSURE: "The view model is not sure that the image is a frontal chest radiograph.",
        TURNED: "Patient Orientation is rotated or mirrored: the image was scored, and is displayed, upright.",
        VIEW_FROM_PIXELS: "The header does not determine the view; the view model classifies the image as frontal.",
    }
)
"""Meaning of each warning code. ``inverted`` to ``flat`` are checked on every image, ``outlier`` and ``unsure`` with an
input gate, ``one_lung`` with a lung mask, the others with a view model or Patient Orientation."""

_MAX_LUNG_EXCESS = 0.05  # grey of the lungs minus the mediastinum, as a share of the grey scale
_MAX_BLACK = 0.5  # share of pixels
_MAX_WHITE = 0.25  # share of pixels
_MAX_ASPECT = 1.6  # longer side / shorter side
_MIN_ENTROPY = 3.5  # bits
_BINS = 64  # of the histogram of the entropy
_STEP = 1 / 255  # one 8-bit level


def quality_warnings(pixels: Pixels, shape: tuple[int, int] | None = None) -> tuple[str, ...]:
    """Check one image.

    Parameters
    ----------
    pixels
        The model's input; shape (size, size, 1), in [0, 1].
    shape
        Rows and columns of the original image; None: unknown.

    Returns
    -------
    tuple[str, ...]
        Codes of ``WARNINGS``.
    """
    return tuple(_check(pixels[..., 0], shape))


def heart_side(pixels: Pixels) -> float:
    """Return an index of the side of the image on which the heart lies.

    The index is the difference of the mean grey ranks of two lower central fields, right of the image minus left.

    Parameters
    ----------
    pixels
        Upright frontal image; shape (size, size, 1), in [0, 1].

    Returns
    -------
    float
        In [-1, 1]; above 0: heart on the right of the image (levocardia). Of 481 public frontal radiographs, with
        and without pneumonia, 81 % are above 0, the median is 0.18, and 5 % are below -0.18.
    """
    ranks = equalised(pixels[..., 0])
    size = len(ranks)
    fields = ranks[11 * size // 20 : 7 * size // 10]
    near, far = round(0.58 * size), round(0.7 * size)
    return float(fields[:, near:far].mean() - fields[:, size - far : size - near].mean())


def _check(picture: Pixels, shape: tuple[int, int] | None) -> Iterator[str]:
    if _lungs(picture) - _mediastinum(picture) > _MAX_LUNG_EXCESS:
        yield INVERTED
    if (picture <= _STEP).mean() > _MAX_BLACK or (picture >= 1 - _STEP).mean() > _MAX_WHITE:
        yield CLIPPED
    if shape is not None and max(shape) > _MAX_ASPECT * min(shape):
        yield ASPECT
    if _entropy(picture) < _MIN_ENTROPY:
        yield FLAT


def _mediastinum(picture: Pixels) -> float:
    """Return the mean grey of the central strip: heart and spine, which are white."""
    size = len(picture)
    return float(picture[size // 4 : 3 * size // 4, 9 * size // 20 : 11 * size // 20].mean())


def _lungs(picture: Pixels) -> float:
    """Return the mean grey of the upper fields on both sides: air, which is black."""
    size = len(picture)
    upper = picture[size // 4 : size // 2]
    return float((upper[:, size // 5 : 2 * size // 5].mean() + upper[:, 3 * size // 5 : 4 * size // 5].mean()) / 2)


def _entropy(picture: Pixels) -> float:
    """Return the entropy of the grey histogram, in bits."""
    counts, _ = np.histogram(picture, bins=_BINS, range=(0, 1))
    shares = counts[counts > 0] / picture.size
    return float(-(shares * np.log2(shares)).sum())
