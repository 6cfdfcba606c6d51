"""Contact sheet of augmented images, to be looked at before a training run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.errors import ImageError, ManifestError
from cxr.pixels.model_input import to_model_input
from training.inputs.augment import augment
from training.plots.contact_sheets import plot_sheet
from training.recipe import TrainingRecipe

COLUMNS = 6


def plot_augmented(cases: pd.DataFrame, recipe: TrainingRecipe, path: Path, *, count: int = 18, seed: int = 0) -> None:
    """Draw images, each followed by five augmented versions, as the training loop would receive them.

    Parameters
    ----------
    cases
        A manifest with absolute paths.
    recipe
        Pixel recipe and augmentation.
    path
        The PNG to write.
    count
        Pictures on the sheet, six per image.
    seed
        Of the sample of images and of the augmentation.

    Raises
    ------
    ManifestError
        If none of the images can be read.
    """
    shown: list[NDArray[np.float32]] = []
    captions: list[str] = []
    for row, case in cases.sample(frac=1, random_state=seed).reset_index(drop=True).iterrows():
        if len(shown) >= count:
            break
        try:
            image = to_model_input(Path(case["path"]), recipe.pixels)
        except (ImageError, OSError):
            continue
        shown.append(image)
        captions.append(str(case["label"]) or "unlabelled")
        for epoch in range(1, COLUMNS):
            shown.append(augment(image, recipe.augment, seed=seed, epoch=epoch, row=int(str(row))))
            captions.append(f"epoch {epoch}")
    if not shown:
        raise ManifestError("No image of the manifest can be read; there is nothing to draw.")
    title = f"recipe {recipe.name}; left: the model's input; right: five augmented versions"
    plot_sheet(shown, captions, path, title, columns=COLUMNS)
