"""Pairs of image and drawn lung mask, prepared and split, as training data of the U-Net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.errors import RunError
from cxr.package.lung_mask import Grey, LungMask
from cxr.pixels.recipe import PixelRecipe
from training.cases import assert_disjoint, split
from training.inputs.cache import Cache, ReportProgress, build_cache
from training.inputs.prepare import mask_recipe

FRACTIONS: Final[Mapping[str, float]] = {"train": 0.7, "val": 0.15, "test": 0.15}
MIN_PAIRS: Final = 3
"""Fewest pairs of a side for a figure."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images with their drawn lung masks.

    Parameters
    ----------
    frame
        Their rows of the manifest, each with a side.
    images, masks
        Caches of images and masks in the same geometry.
    image_rows, mask_rows
        (pairs,): for each row of the frame the row in each cache.
    left_out
        Reason to number of excluded rows of the manifest.
    """

    frame: pd.DataFrame
    images: Cache
    masks: Cache
    image_rows: Rows
    mask_rows: Rows
    left_out: Mapping[str, int]

    def plain(self, row: int) -> Grey:
        """Return one image as serving prepares it, float32 (size, size, 1)."""
        return self.images.image(int(self.image_rows[row]))

    def drawn(self, row: int) -> LungMask:
        """Return the drawn mask of one image, bool (size, size)."""
        inside: LungMask = self.masks.image(int(self.mask_rows[row]))[:, :, 0] >= 0.5
        return inside

    def side(self, name: str) -> Rows:
        """Return the rows of one side of the split."""
        return np.flatnonzero(self.frame["split"] == name)


def prepare_pairs(
    cases: pd.DataFrame,
    pixels: PixelRecipe,
    folder: Path,
    *,
    seed: int,
    processes: int | None,
    progress: ReportProgress,
) -> Pairs:
    """Prepare every image that has a mask, and split the pairs.

    Parameters
    ----------
    cases
        A manifest with absolute paths. Its sides are kept; without sides the pairs are split by patient, or
        by image where the patient is unknown. A duplicate image counts once, so that it is on one side.
    pixels
        Pixel recipe of the images.
    folder
        Folder of the caches.
    seed
        Seed of the split.
    processes, progress
        As in ``training.inputs.cache.build_cache``.

    Raises
    ------
    RunError
        If there are too few pairs, or the recipe crops borders, which drawn masks can't follow.
    SplitError
        If a patient or a file is on two sides.
    """
    if pixels.borders != "keep":
        raise RunError("Drawn masks don't fit images with cropped borders: use a recipe with borders = keep.")
    masked = cases[cases["mask_path"] != ""].reset_index(drop=True)
    images = build_cache(masked, pixels, folder, processes=processes, progress=progress)
    mask_files = masked.assign(path=masked["mask_path"])
    masks = build_cache(mask_files, mask_recipe(pixels), folder, processes=processes, progress=progress)
    is_there = masked["image_id"].isin(list(images.rows_by_id)) & masked["image_id"].isin(list(masks.rows_by_id))
    usable = masked[is_there].reset_index(drop=True)
    distinct = usable[~pd.Series(images.rows(usable["image_id"])).duplicated()].reset_index(drop=True)
    left_out = {
        "no_mask": len(cases) - len(masked),
        "not_prepared": len(masked) - len(usable),
        "same_picture": len(usable) - len(distinct),
    }
    if len(distinct) < MIN_PAIRS * len(FRACTIONS):
        raise RunError(
            f"{len(distinct)} of {len(cases)} images are a usable pair of image and lung mask (without a mask "
            f"{left_out['no_mask']}, not prepared {left_out['not_prepared']}, duplicates {left_out['same_picture']}); "
            f"at least {MIN_PAIRS * len(FRACTIONS)} are needed: `cxr train index darwin` and `radiography` name masks."
        )
    pairs = _with_sides(distinct, seed)
    ids = pairs["image_id"]
    return Pairs(pairs, images, masks, images.rows(ids), masks.rows(ids), left_out)


def _with_sides(pairs: pd.DataFrame, seed: int) -> pd.DataFrame:
    if not (pairs["split"] != "").any():
        return split(pairs, fractions=FRACTIONS, seed=seed)
    assert_disjoint(pairs, patients=not bool((pairs["image_wise"] == "yes").all()))
    for name in FRACTIONS:
        if (count := int((pairs["split"] == name).sum())) < MIN_PAIRS:
            raise RunError(f"The {name} side has {count} pairs of image and mask; at least {MIN_PAIRS} are needed.")
    return pairs
