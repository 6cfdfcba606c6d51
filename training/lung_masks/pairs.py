"""Pictures and the lungs that people drew on them, prepared and divided, for a U-Net to learn from."""

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
LEAST: Final = 3
"""Pairs of a side that a figure can be made of."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pictures with their lungs.

    Parameters
    ----------
    frame
        Their rows of the manifest, each with a side.
    pictures, masks
        Caches of both, in one geometry.
    picture_rows, mask_rows
        For each row of the frame, the row of each cache.
    left_out
        Reason to how many rows of the manifest are no pair.
    """

    frame: pd.DataFrame
    pictures: Cache
    masks: Cache
    picture_rows: Rows
    mask_rows: Rows
    left_out: Mapping[str, int]

    def plain(self, row: int) -> Grey:
        """Give one picture, as serving prepares it; shape (size, size, 1)."""
        return self.pictures.image(int(self.picture_rows[row]))

    def drawn(self, row: int) -> LungMask:
        """Give its lungs, as they were drawn; shape (size, size)."""
        inside: LungMask = self.masks.image(int(self.mask_rows[row]))[:, :, 0] >= 0.5
        return inside

    def side(self, name: str) -> Rows:
        """Rows of one side of the split."""
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
    """Prepare every picture that has a mask, and divide them.

    Parameters
    ----------
    cases
        A manifest, paths absolute. Its sides are kept; without any, patients are dealt out, or images
        of which no patient is known. The same picture twice counts once, so that it is on one side.
    pixels
        How pictures are prepared.
    folder
        Of the caches.
    seed
        Of the split.
    processes, progress
        As of ``training.inputs.cache.build_cache``.

    Raises
    ------
    RunError
        If there are too few pairs, or masks can't follow the recipe.
    SplitError
        If a patient or a file is on two sides.
    """
    if pixels.borders != "keep":
        raise RunError("Drawn masks can't follow pictures whose borders are cropped: use a recipe with borders = keep.")
    drawn = cases[cases["mask_path"] != ""].reset_index(drop=True)
    pictures = build_cache(drawn, pixels, folder, processes=processes, progress=progress)
    as_pictures = drawn.assign(path=drawn["mask_path"])
    masks = build_cache(as_pictures, mask_recipe(pixels), folder, processes=processes, progress=progress)
    is_there = drawn["image_id"].isin(list(pictures.rows_by_id)) & drawn["image_id"].isin(list(masks.rows_by_id))
    usable = drawn[is_there].reset_index(drop=True)
    kept = usable[~pd.Series(pictures.rows(usable["image_id"])).duplicated()].reset_index(drop=True)
    left_out = {
        "no_mask": len(cases) - len(drawn),
        "not_prepared": len(drawn) - len(usable),
        "same_picture": len(usable) - len(kept),
    }
    if len(kept) < LEAST * len(FRACTIONS):
        raise RunError(
            f"{len(kept)} of {len(cases)} images are a usable pair of picture and lung mask (without a mask "
            f"{left_out['no_mask']}, not prepared {left_out['not_prepared']}, twice there {left_out['same_picture']}); "
            f"at least {LEAST * len(FRACTIONS)} are needed: `cxr train index darwin` and `radiography` name masks."
        )
    divided = _divided(kept, seed)
    ids = divided["image_id"]
    return Pairs(divided, pictures, masks, pictures.rows(ids), masks.rows(ids), left_out)


def _divided(kept: pd.DataFrame, seed: int) -> pd.DataFrame:
    if not (kept["split"] != "").any():
        return split(kept, fractions=FRACTIONS, seed=seed)
    assert_disjoint(kept, patients=not bool((kept["image_wise"] == "yes").all()))
    for name in FRACTIONS:
        if (count := int((kept["split"] == name).sum())) < LEAST:
            raise RunError(f"The {name} side has {count} pairs of picture and mask; at least {LEAST} are needed.")
    return kept
