"""What makes everything outside the lungs black in a run's images: nothing, drawn masks, or a mask model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxr.package.lung_mask import Grey, Inside, LungFinder, masked
from cxr.pixels.recipe import PixelRecipe
from training.inputs.prepare import read_mask


@dataclass(frozen=True, slots=True)
class Lungs:
    """A mask model's finder, and the fingerprint that names it."""

    fingerprint: str
    finder: LungFinder


@dataclass(frozen=True, slots=True)
class Masking:
    """How images are masked.

    Parameters
    ----------
    is_drawn
        With the masks that the manifest names.
    lungs
        With a mask model, as serving does; None: not so.
    """

    is_drawn: bool = False
    lungs: Lungs | None = None

    def apply(self, plain: Grey, mask_path: str, recipe: PixelRecipe) -> Grey:
        """Mask one prepared picture.

        Parameters
        ----------
        plain
            Shape (size, size, 1).
        mask_path
            What the manifest names; empty: nothing.
        recipe
            What the picture was prepared with.

        Raises
        ------
        ImageError
            If the drawn mask can't be used, or no lung is found.
        OSError
            If the drawn mask can't be read.
        """
        if self.lungs is not None:
            return self.lungs.finder.see(plain).pixels
        return masked(plain, drawn_lungs(mask_path, recipe)) if self.is_drawn else plain


def drawn_lungs(mask_path: str, recipe: PixelRecipe) -> Inside:
    """Read a drawn mask in a recipe's geometry; shape (size, size). Errors as of ``Masking.apply``."""
    inside: Inside = read_mask(Path(mask_path), recipe)[:, :, 0] > 0
    return inside


WHOLE_FILMS: Final = Masking()
