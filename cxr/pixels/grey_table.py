"""Map stored values to grey levels: one table entry for each value that a pixel can hold.

Every step from stored value to grey depends only on the value and on the image's histogram. It is therefore computed
in float64 once for each value (at most 65,536 of up to 16 bits; more in 32-bit containers); pixels are looked up in
the table. The result equals that of computing each pixel, at less cost: an image has far more pixels than values.
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

# Greys within one 8-bit level of black or white are indistinguishable.
_BLACK, _WHITE = 1 / 256, 255 / 256


@dataclass(frozen=True, slots=True, kw_only=True)
class GreyTransform:
    """Greyscale transformation of an image (PS3.4 Section N.2): LUTs, inversion; and its padding."""

    extremes: tuple[float, float]  # smallest and largest value of Bits Stored
    modality: LookupTable | Rescale | None = None
    voi: LookupTable | Window | None = None
    is_inverted: bool = False  # the smallest value is displayed white
    padding: tuple[float, float] | None = None  # first and last stored value of padding
    is_raster: bool = False  # PNG, JPEG or array, without DICOM header


def grey_table(stored: Values, counts: Counts, transform: GreyTransform, recipe: PixelRecipe) -> NDArray[np.float32]:
    """Map every stored pixel value to a grey level.

    Parameters
    ----------
    stored
        (n,) stored value of each possible container.
    counts
        (n,) number of pixels with that container.
    transform
        Meaning of the stored values.
    recipe
        Processing of the values.

    Returns
    -------
    float32 (n,), in [0, 1], black 0; padding is 0.

    Raises
    ------
    DamagedPixels
        If all pixels outside the padding have the same value, or there are none.
    """
    is_padding = np.zeros(len(stored), bool)
    if recipe.padding and transform.padding is not None:
        is_padding = (stored >= transform.padding[0]) & (stored <= transform.padding[1])
    counts = np.where(is_padding, 0, counts)
    if np.unique(stored[counts > 0]).size < 2:
        raise DamagedPixels(
            "All pixels outside the padding have the same value: the image shows nothing; send it again."
        )
    values = transform.modality.look_up(stored) if recipe.modality_lut and transform.modality else stored
    grey = np.clip(_scale(values, stored, counts, transform, recipe), 0.0, 1.0)
    if recipe.inversion and transform.is_inverted:
        grey = 1.0 - grey
    if recipe.grey_levels is not None:
        grey = np.floor(grey * (recipe.grey_levels - 1)) / (recipe.grey_levels - 1)
    grey[is_padding] = 0.0
    return grey.astype(np.float32)


def robust_range(values: Values, counts: Counts, recipe: PixelRecipe) -> tuple[float, float]:
    """Return the recipe's low and high percentile of the pixels' values.

    The percentile q of n pixels is the value at rank ceil(q n / 100) (NumPy's ``inverted_cdf``: always an
    occurring value). If both percentiles are equal, return the smallest and the largest occurring value.
    """
    order = np.argsort(values, kind="stable")
    order = order[counts[order] > 0]
    cumulated = np.cumsum(counts[order])
    total = int(cumulated[-1])
    ranks = [max(1, math.ceil(total * (q / 100))) for q in (recipe.low_percentile, recipe.high_percentile)]
    low, high = (float(values[order[index]]) for index in np.searchsorted(cumulated, ranks))
    return (low, high) if low < high else (float(values[order[0]]), float(values[order[-1]]))


def _scale(values: Values, stored: Values, counts: Counts, transform: GreyTransform, recipe: PixelRecipe) -> Values:
    """Return the grey of each modality value; the caller clips to [0, 1]."""
    if transform.is_raster and recipe.raster == "full":
        return values / transform.extremes[1]
    if recipe.scaling == "maximum" and not transform.is_raster:
        return _share_of_maximum(values, counts)
    if recipe.scaling == "voi" and transform.voi is not None:
        grey = transform.voi.to_grey(values)
        if not _is_unusable(grey, counts, recipe):
            return grey
    return _between_percentiles(values, stored, counts, transform, recipe)


def _is_unusable(grey: Values, counts: Counts, recipe: PixelRecipe) -> bool:
    """Check whether the header's window removes the contrast, e.g. a CT window on a radiograph."""
    saturated = counts[(grey <= _BLACK) | (grey >= _WHITE)].sum() / counts.sum()
    low, high = robust_range(grey, counts, recipe)
    return bool(saturated > recipe.max_saturated or high - low < recipe.min_spread)


def _between_percentiles(
    values: Values, stored: Values, counts: Counts, transform: GreyTransform, recipe: PixelRecipe
) -> Values:
    # Pixels at the ends of the stored range are saturated: burned-in marks, direct exposure.
    unsaturated = np.where(np.isin(stored, transform.extremes), 0, counts)
    if np.unique(values[unsaturated > 0]).size < 2:
        unsaturated = counts
    low, high = robust_range(values, unsaturated, recipe)
    if low == high:
        raise DamagedPixels("All pixels have the same value after the modality LUT: send the image again.")
    return (values - low) / (high - low)


def _share_of_maximum(values: Values, counts: Counts) -> Values:
    maximum = values[counts > 0].max()
    if maximum <= 0:
        raise DamagedPixels("No pixel is above zero, and the recipe divides by the maximum: send the image again.")
    shares: Values = np.maximum(values, 0.0) / maximum
    return shares
