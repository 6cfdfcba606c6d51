"""Masking of images: pixels outside the lungs become black, by drawn masks or by a mask model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxr.package.lung_mask import Grey, LungFinder, LungMask, masked
from cxr.pixels.recipe import PixelRecipe
from training.inputs.prepare import read_mask


@dataclass(frozen=True, slots=True)
class Lungs:
    """A mask model's finder and its fingerprint."""

    fingerprint: str
    finder: LungFinder


@dataclass(frozen=True, slots=True)
class Masking:
    """How images are masked.

    Parameters
    ----------
    is_drawn
        Whether the masks that the manifest names are used.
    lungs
        The mask model, as in serving; None: no mask model is used.
    """

    is_drawn: bool = False
    lungs: Lungs | None = None

    def apply(self, plain: Grey, mask_path: str, recipe: PixelRecipe) -> Grey:
        """Mask one prepared image.

        Parameters
        ----------
        plain
            Shape (size, size, 1).
        mask_path
            The drawn mask; empty: the manifest names none.
        recipe
            The pixel recipe of the image.

        Returns
        -------
        float32 (size, size, 1), 0 outside the lungs; ``plain`` itself without masking.

        Raises
        ------
        ImageError
            If the drawn mask can't be used, or no lung is found.
        OSError
            If the drawn mask can't be read.
        """
        if self.lungs is not None:
            return self.lungs.finder.mask_lungs(plain).pixels
        return masked(plain, drawn_lungs(mask_path, recipe)) if self.is_drawn else plain


def drawn_lungs(mask_path: str, recipe: PixelRecipe) -> LungMask:
    """Read a drawn mask in the recipe's geometry: bool (size, size), True inside; errors as in ``Masking.apply``."""
    inside: LungMask = read_mask(Path(mask_path), recipe)[:, :, 0] > 0
    return inside


NO_MASKING: Final = Masking()
