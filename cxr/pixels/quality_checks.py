"""Whether a picture looks like a frontal chest radiograph at all: checks of the model's input.

They warn, and refuse nothing: the codes stand beside the scores, in the report and in the audit
database. The bounds were set on 2,423 public frontal radiographs; each warns of fewer than 1 in 100
of them, and ``inverted`` finds 97 of 100 of the same films turned to their negatives.
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
        INVERTED: "The lungs are brighter than what lies between them: the picture is probably a negative.",
        CLIPPED: "Much of the picture is entirely black or entirely white.",
        ASPECT: "The picture is much longer one way than the other.",
        FLAT: "The picture has hardly any shades of grey.",
        OUTLIER: "The picture is unlike those that the model was trained with (Mahalanobis distance of its features).",
        UNSURE: "The score fits both answers, or neither (split-conformal prediction).",
        ONE_LUNG: "The model sees lungs alone, and nearly all that was found lies on one side of the picture.",
        LOOKS_LATERAL: "The picture looks like a lateral chest radiograph (view model).",
        LOOKS_NOT_A_CHEST: "The picture does not look like a chest radiograph (view model).",
        VIEW_UNSURE: "The view model is not sure that the picture is a frontal chest radiograph.",
        TURNED: "Patient Orientation says turned or mirrored: the picture was scored, and is shown, turned upright.",
        VIEW_FROM_PIXELS: "The header does not tell the view; the view model takes the picture for frontal.",
    }
)
"""What each code of a warning says. The first four are of every image, the next two of packages with an input gate,
the last of packages with a lung mask."""

_BRIGHTER = 0.05  # of the grey scale
_MOST_BLACK = 0.5
_MOST_WHITE = 0.25
_LONGEST = 1.6
_LEAST_BITS = 3.5
_GREYS = 64
_STEP = 1 / 255


def quality_warnings(pixels: Pixels, shape: tuple[int, int] | None = None) -> tuple[str, ...]:
    """Check one picture.

    Parameters
    ----------
    pixels
        What the model sees; shape (size, size, 1), in [0, 1].
    shape
        Rows and columns of the image that it was made of; None: not known.

    Returns
    -------
    tuple[str, ...]
        Codes of ``WARNINGS``.
    """
    return tuple(_check(pixels[..., 0], shape))


def heart_side(pixels: Pixels) -> float:
    """Tell on which side of an upright frontal film the heart lies.

    The difference of mean ranks of grey between the lower middle fields, right of the picture minus left.

    Parameters
    ----------
    pixels
        Upright; shape (size, size, 1), in [0, 1].

    Returns
    -------
    float
        In [-1, 1]. Of 481 public frontal films, with and without pneumonia, 81 of 100 are above 0, the median is
        0.18, and 5 of 100 are below -0.18.
    """
    ranks = equalised(pixels[..., 0])
    size = len(ranks)
    fields = ranks[11 * size // 20 : 7 * size // 10]
    near, far = round(0.58 * size), round(0.7 * size)
    return float(fields[:, near:far].mean() - fields[:, size - far : size - near].mean())


def _check(picture: Pixels, shape: tuple[int, int] | None) -> Iterator[str]:
    if _lungs(picture) - _mediastinum(picture) > _BRIGHTER:
        yield INVERTED
    if (picture <= _STEP).mean() > _MOST_BLACK or (picture >= 1 - _STEP).mean() > _MOST_WHITE:
        yield CLIPPED
    if shape is not None and max(shape) > _LONGEST * min(shape):
        yield ASPECT
    if _bits(picture) < _LEAST_BITS:
        yield FLAT


def _mediastinum(picture: Pixels) -> float:
    """Mean grey of the strip in the middle, where heart and spine are white."""
    size = len(picture)
    return float(picture[size // 4 : 3 * size // 4, 9 * size // 20 : 11 * size // 20].mean())


def _lungs(picture: Pixels) -> float:
    """Mean grey of the upper fields on both sides, where air is black."""
    size = len(picture)
    upper = picture[size // 4 : size // 2]
    return float((upper[:, size // 5 : 2 * size // 5].mean() + upper[:, 3 * size // 5 : 4 * size // 5].mean()) / 2)


def _bits(picture: Pixels) -> float:
    """Entropy of the histogram, in bits."""
    counts, _ = np.histogram(picture, bins=_GREYS, range=(0, 1))
    shares = counts[counts > 0] / picture.size
    return float(-(shares * np.log2(shares)).sum())
