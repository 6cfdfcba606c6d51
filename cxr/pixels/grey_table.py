"""From stored values to grey: one table with an entry for each value that a pixel can hold.

Every step between stored value and grey depends on that value alone, and on a histogram. So each
is computed once for each of the (at most 65,536) values, in float64, and the pixels only look it
up: the same result as doing it pixel by pixel, at a twentieth of the cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr.errors import DamagedPixels
from cxr.pixels.luts import LookupTable, Rescale, Values, Window
from cxr.pixels.recipe import PixelRecipe

Counts = NDArray[np.int64]

# Within one 8-bit level of black or white nothing can be told apart.
_BLACK, _WHITE = 1 / 256, 255 / 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Tones:
    """What is known of the meaning of an image's values."""

    extremes: tuple[float, float]  # the smallest and largest value that Bits Stored can hold
    modality: LookupTable | Rescale | None = None
    voi: LookupTable | Window | None = None
    is_inverted: bool = False  # the smallest grey is to be shown white
    padding: tuple[float, float] | None = None  # stored values, both included, that are no picture
    is_raster: bool = False  # a PNG, a JPEG or an array: there is no header


def grey_table(stored: Values, counts: Counts, tones: Tones, recipe: PixelRecipe) -> NDArray[np.float32]:
    """Give each stored value, as its container holds it, its grey.

    Parameters
    ----------
    stored
        (n,) the stored value of each possible container.
    counts
        (n,) how many pixels have that container.
    tones, recipe
        What the values mean, and what is to be done with them.

    Returns
    -------
    float32 (n,), in [0, 1]; padding is 0.

    Raises
    ------
    DamagedPixels
        If there is no picture: every pixel is padding, or all others have the same value.
    """
    is_padding = np.zeros(len(stored), bool)
    if recipe.padding and tones.padding is not None:
        is_padding = (stored >= tones.padding[0]) & (stored <= tones.padding[1])
    counts = np.where(is_padding, 0, counts)
    if np.unique(stored[counts > 0]).size < 2:
        raise DamagedPixels(
            "Every pixel that is not padding has the same value: this is no picture; send the image again."
        )
    values = tones.modality.look_up(stored) if recipe.modality_lut and tones.modality else stored
    grey = np.clip(_scale(values, stored, counts, tones, recipe), 0.0, 1.0)
    if recipe.inversion and tones.is_inverted:
        grey = 1.0 - grey
    if recipe.grey_levels is not None:
        grey = np.floor(grey * (recipe.grey_levels - 1)) / (recipe.grey_levels - 1)
    grey[is_padding] = 0.0
    return grey.astype(np.float32)


def robust_range(values: Values, counts: Counts, recipe: PixelRecipe) -> tuple[float, float]:
    """Give the recipe's low and high percentile of the values of all pixels.

    The percentile q of n pixels is the value of the pixel at rank ceil(q n / 100) (NumPy's
    ``inverted_cdf``: always a value that occurs). Where both are the same, the smallest and the
    largest value that occurs.
    """
    order = np.argsort(values, kind="stable")
    order = order[counts[order] > 0]
    cumulated = np.cumsum(counts[order])
    total = int(cumulated[-1])
    ranks = [max(1, math.ceil(total * (q / 100))) for q in (recipe.low_percentile, recipe.high_percentile)]
    low, high = (float(values[order[index]]) for index in np.searchsorted(cumulated, ranks))
    return (low, high) if low < high else (float(values[order[0]]), float(values[order[-1]]))


def _scale(values: Values, stored: Values, counts: Counts, tones: Tones, recipe: PixelRecipe) -> Values:
    """Give the grey of each modality value; what is beyond [0, 1] is clipped by the caller."""
    if tones.is_raster and recipe.raster == "full":
        return values / tones.extremes[1]
    if recipe.scaling == "maximum" and not tones.is_raster:
        return _share_of_maximum(values, counts)
    if recipe.scaling == "voi" and tones.voi is not None:
        grey = np.clip(tones.voi.to_grey(values), 0.0, 1.0)
        if not _is_ruined(grey, counts, recipe):
            return grey
    return _between_percentiles(values, stored, counts, tones, recipe)


def _is_ruined(grey: Values, counts: Counts, recipe: PixelRecipe) -> bool:
    """Whether the header's window leaves too little to see, e.g. a CT window on a radiograph."""
    saturated = counts[(grey <= _BLACK) | (grey >= _WHITE)].sum() / counts.sum()
    low, high = robust_range(grey, counts, recipe)
    return bool(saturated > recipe.max_saturated or high - low < recipe.min_spread)


def _between_percentiles(values: Values, stored: Values, counts: Counts, tones: Tones, recipe: PixelRecipe) -> Values:
    # Pixels at the ends of the stored range were cut off there: burned-in marks, direct exposure.
    unsaturated = np.where(np.isin(stored, tones.extremes), 0, counts)
    if np.unique(values[unsaturated > 0]).size < 2:
        unsaturated = counts
    low, high = robust_range(values, unsaturated, recipe)
    if low == high:
        raise DamagedPixels("Every pixel has the same value after the modality LUT: send the image again.")
    return (values - low) / (high - low)


def _share_of_maximum(values: Values, counts: Counts) -> Values:
    maximum = values[counts > 0].max()
    if maximum <= 0:
        raise DamagedPixels("No pixel is above zero, and the recipe divides by the largest: send the image again.")
    shares: Values = np.maximum(values, 0.0) / maximum
    return shares
