"""Evidence maps over the images with the most certain hits, false alarms and misses.

For a network with the evidence head the map is exact; for others (the heads of this project's
predecessors) it is Grad-CAM, an approximation. The title of the figure names which.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.errors import ImageError, PredictionsError
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import PixelRecipe
from training.evaluation import Predictions
from training.inputs.masking import NO_MASKING, Masking
from training.networks.grad_cam import grad_cam_maps
from training.plots.contact_sheets import plot_overlays

IMAGES_PER_KIND = 6
"""Images of hits, of false alarms, and of misses."""

BATCH = 16


@dataclass(frozen=True, slots=True)
class _Example:
    row: int
    caption: str


def plot_gallery(
    model_file: Path,
    recipe: PixelRecipe,
    cases: pd.DataFrame,
    predictions: Predictions,
    name: str,
    path: Path,
    *,
    masking: Masking = NO_MASKING,
) -> None:
    """Draw the evidence for one class over its most certain hits, most certain false alarms and worst misses.

    Parameters
    ----------
    model_file
        A ``.keras`` file of a run; with the evidence head, its second output is the map, (N, h, w, C).
    recipe
        From pixels to its input.
    cases
        A manifest with absolute paths that contains the predicted images.
    predictions
        Of the model.
    name
        The class.
    path
        The PNG to write.
    masking
        Parts of each image that are hidden from the model.

    Raises
    ------
    PredictionsError
        If no predicted image can be read.
    """
    masks = cases["mask_path"] if "mask_path" in cases else [""] * len(cases)
    files = dict(zip(cases["image_id"], zip(cases["path"], masks, strict=True), strict=True))
    images, captions = [], []
    for each in _examples(predictions, name):
        file = files.get(predictions.frame["image_id"][each.row])
        try:
            image = masking.apply(to_model_input(Path(file[0]), recipe), file[1], recipe) if file else None
        except (ImageError, OSError):
            image = None
        if image is not None:
            images.append(image)
            captions.append(each.caption)
    if not images:
        raise PredictionsError("None of the predicted images can be read; name the manifest that lists them.")
    network = keras.saving.load_model(model_file, compile=False, safe_mode=True)
    plot_maps(network, images, captions, path, name=name, index=predictions.classes.index(name))


def plot_maps(
    network: keras.Model,
    images: list[np.ndarray],
    captions: list[str],
    path: Path,
    *,
    name: str,
    index: int,
) -> None:
    """Draw the evidence for one class over images: the exact map of the evidence head, or Grad-CAM, named in the title.

    Parameters
    ----------
    network
        With the evidence head, its second output is the map, (N, h, w, C).
    images
        Inputs of the network, (S, S, 1) in [0, 1]; one or more.
    captions
        One for each.
    path
        The PNG to write.
    name, index
        The class, and its index among the outputs.
    """
    batch = np.stack(images)
    if len(network.outputs) > 1:
        maps = np.asarray(network.predict(batch, batch_size=BATCH, verbose=0)[1])[..., index]
        plot_overlays(images, maps, captions, path, f"evidence for {name} (red) and against it (blue), in logits")
        return
    maps = _scaled_to_one(grad_cam_maps(network, batch, index))
    title = f"Grad-CAM for {name}: an approximation; the scale is each image's own"
    plot_overlays(images, maps, captions, path, title, unit="fraction of the image's largest value")


def _examples(predictions: Predictions, name: str) -> list[_Example]:
    truth, has_truth, probability = predictions.truth(name), predictions.has_truth(name), predictions.probability(name)
    examples: list[_Example] = []
    used: set[int] = set()
    for kind, mask, order in (
        ("hit", truth & has_truth, -probability),
        ("false alarm", ~truth & has_truth, -probability),
        ("miss", truth & has_truth, probability),
    ):
        candidates = [int(row) for row in np.argsort(order, kind="stable") if mask[row] and int(row) not in used]
        rows = candidates[:IMAGES_PER_KIND]
        used |= set(rows)
        examples += [_Example(row, f"{kind}: {probability[row]:.2f}") for row in rows]
    return examples


def _scaled_to_one(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each map by its largest value: Grad-CAM's values can't be compared between images."""
    largest = maps.max(axis=(1, 2), keepdims=True)
    return (maps / np.where(largest > 0, largest, 1)).astype(np.float32)
