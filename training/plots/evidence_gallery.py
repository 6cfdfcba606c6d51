"""A gallery of maps over the images: where the surest hits, false alarms and misses come from.

A network with the evidence head gives its exact map; others (this project's predecessors' heads) get
Grad-CAM, an approximation, and the picture says which.
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

EACH = 6
"""Images of each kind."""

BATCH = 16


@dataclass(frozen=True, slots=True)
class _Chosen:
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
    """Draw what speaks for one class over the surest hits, the surest false alarms and the worst misses.

    Parameters
    ----------
    model_file
        A ``.keras`` file of a run; with the evidence head, its second output is the map, (N, h, w, C).
    recipe
        How pixels become its input.
    cases
        A manifest with absolute paths that has the predicted images.
    predictions
        Of the model.
    name
        The class.
    path
        The PNG to write.
    masking
        What the model sees of each film.

    Raises
    ------
    PredictionsError
        If no predicted image can be read.
    """
    masks = cases["mask_path"] if "mask_path" in cases else [""] * len(cases)
    files = dict(zip(cases["image_id"], zip(cases["path"], masks, strict=True), strict=True))
    images, captions = [], []
    for each in _choose(predictions, name):
        file = files.get(predictions.frame["image_id"][each.row])
        try:
            image = masking.apply(to_model_input(Path(file[0]), recipe), file[1], recipe) if file else None
        except (ImageError, OSError):
            image = None
        if image is not None:
            images.append(image)
            captions.append(each.caption)
    if not images:
        raise PredictionsError("None of the predicted images can be read; name the manifest that they are in.")
    network = keras.saving.load_model(model_file, compile=False, safe_mode=True)
    plot_maps(network, images, captions, path, name=name, place=predictions.classes.index(name))


def plot_maps(
    network: keras.Model,
    images: list[np.ndarray],
    captions: list[str],
    path: Path,
    *,
    name: str,
    place: int,
) -> None:
    """Draw what speaks for one class over images: the exact map of the evidence head, or Grad-CAM, which it says.

    Parameters
    ----------
    network
        With the evidence head, its second output is the map, (N, h, w, C).
    images
        As the network takes them, (S, S, 1) in [0, 1]; one or more.
    captions
        One for each.
    path
        The PNG to write.
    name, place
        The class, and where it stands among the outputs.
    """
    batch = np.stack(images)
    if len(network.outputs) > 1:
        maps = np.asarray(network.predict(batch, batch_size=BATCH, verbose=0)[1])[..., place]
        plot_overlays(images, maps, captions, path, f"evidence for {name} (red) and against it (blue), in logits")
        return
    maps = _each_to_one(grad_cam_maps(network, batch, place))
    title = f"Grad-CAM for {name}: an approximation; the scale is each image's own"
    plot_overlays(images, maps, captions, path, title, unit="share of the image's largest value")


def _choose(predictions: Predictions, name: str) -> list[_Chosen]:
    truth, chance, known = predictions.truth(name), predictions.probability(name), predictions.known(name)
    kinds = (("hit", truth & known, -chance), ("false alarm", ~truth & known, -chance), ("miss", truth & known, chance))
    chosen, seen = [], set()
    for kind, mask, order in kinds:
        rows = [int(row) for row in np.argsort(order, kind="stable") if mask[row] and int(row) not in seen][:EACH]
        seen |= set(rows)
        chosen += [_Chosen(row, f"{kind}: {chance[row]:.2f}") for row in rows]
    return chosen


def _each_to_one(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each map by its largest value: Grad-CAM's values can't be compared between images."""
    largest = maps.max(axis=(1, 2), keepdims=True)
    return (maps / np.where(largest > 0, largest, 1)).astype(np.float32)
