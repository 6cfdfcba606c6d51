"""Evidence maps over the most certain hits, false alarms and misses, each kind in a row of its own.

For a network with the evidence head the map is exact; for others (the heads of this project's
predecessors) it is Grad-CAM, an approximation. The title of the figure names which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

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
    row: int  # of the predictions
    cell: int  # of the figure
    caption: str


def plot_gallery(
    model_file: Path,
    recipe: PixelRecipe,
    cases: pd.DataFrame,
    predictions: Predictions,
    name: str,
    path: Path,
    *,
    threshold: float | None,
    masking: Masking = NO_MASKING,
) -> None:
    """Draw the evidence for one class over its most certain hits, most certain false alarms and worst misses.

    A row without such an image says so. Without an operating point there are no hits and misses: the rows are the
    images with and without the class that have the highest scores.

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
    threshold
        Operating point of the class, in probability; not used where classes exclude each other: the model then says the
        class with the largest probability.
    masking
        Parts of each image that are hidden from the model.

    Raises
    ------
    PredictionsError
        If no predicted image can be read.
    """
    masks = cases["mask_path"] if "mask_path" in cases else [""] * len(cases)
    files = dict(zip(cases["image_id"], zip(cases["path"], masks, strict=True), strict=True))
    images, captions, cells = [], [], []
    examples, empty = _examples(predictions, name, threshold)
    for each in examples:
        file = files.get(predictions.frame["image_id"][each.row])
        try:
            image = masking.apply(to_model_input(Path(file[0]), recipe), file[1], recipe) if file else None
        except (ImageError, OSError):
            image = None
        if image is not None:
            images.append(image)
            captions.append(each.caption)
            cells.append(each.cell)
    if not images:
        raise PredictionsError("None of the predicted images can be read; name the manifest that lists them.")
    network = keras.saving.load_model(model_file, compile=False, safe_mode=True)
    index = predictions.classes.index(name)
    plot_maps(network, images, captions, path, name=name, index=index, cells=cells, notes=empty)


def plot_maps(
    network: keras.Model,
    images: list[np.ndarray],
    captions: list[str],
    path: Path,
    *,
    name: str,
    index: int,
    cells: Sequence[int] | None = None,
    notes: Mapping[int, str] = MappingProxyType({}),
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
    cells, notes
        As for ``training.plots.contact_sheets.plot_overlays``.
    """
    batch = np.stack(images)
    if len(network.outputs) > 1:
        maps = np.asarray(network.predict(batch, batch_size=BATCH, verbose=0)[1])[..., index]
        title = f"evidence for {name} (red) and against it (blue), in logits"
        plot_overlays(images, maps, _with_empty_maps(captions, maps), path, title, cells=cells, notes=notes)
        return
    maps = _scaled_to_one(grad_cam_maps(network, batch, index))
    title = f"Grad-CAM for {name}: an approximation; the scale is each image's own"
    unit = "fraction of the image's largest value"
    plot_overlays(images, maps, _with_empty_maps(captions, maps), path, title, unit=unit, cells=cells, notes=notes)


def _examples(predictions: Predictions, name: str, threshold: float | None) -> tuple[list[_Example], Mapping[int, str]]:
    """Return the examples, one row of the figure for each kind, and the words of the rows that have none."""
    truth, has_truth, probability = predictions.truth(name), predictions.has_truth(name), predictions.probability(name)
    said = predictions.said(name, threshold)
    if said is None:
        kinds = [
            (f"with {name}, highest score", truth & has_truth, -probability),
            (f"without {name}, highest score", ~truth & has_truth, -probability),
        ]
    else:
        kinds = [
            ("hit", truth & has_truth & said, -probability),
            ("false alarm", ~truth & has_truth & said, -probability),
            ("miss", truth & has_truth & ~said, probability),
        ]
    examples: list[_Example] = []
    empty: dict[int, str] = {}
    for number, (kind, is_kind, order) in enumerate(kinds):
        first = number * IMAGES_PER_KIND
        rows = [int(row) for row in np.argsort(order, kind="stable") if is_kind[row]][:IMAGES_PER_KIND]
        examples += [
            _Example(row, first + place, f"{kind}: {probability[row]:.2f}{_label_of(predictions, row)}")
            for place, row in enumerate(rows)
        ]
        if not rows:
            empty[first] = f"no {kind}"
    return examples, empty


def _label_of(predictions: Predictions, row: int) -> str:
    """Return the line of a caption with the true label; empty if the predictions don't have it."""
    label = str(predictions.frame["label"].iloc[row])
    if not label and predictions.kind == "multiclass":
        label = predictions.classes[int(predictions.frame["y"].iloc[row])]
    return f"\nlabel {label}" if label else ""


def _with_empty_maps(captions: Sequence[str], maps: NDArray[np.float32]) -> list[str]:
    """Return the captions, with words where a map is zero everywhere."""
    return [
        caption if evidence.any() else f"{caption}\nempty map" for caption, evidence in zip(captions, maps, strict=True)
    ]


def _scaled_to_one(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each map by its largest value: Grad-CAM's values can't be compared between images."""
    largest = maps.max(axis=(1, 2), keepdims=True)
    return (maps / np.where(largest > 0, largest, 1)).astype(np.float32)
