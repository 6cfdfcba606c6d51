"""Score images with blanked lungs with a run's own model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import keras
import numpy as np
from numpy.typing import NDArray

from cxr.errors import ImageError
from cxr.package.lung_mask import LungMask
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import PixelRecipe
from training.audit.blanked_lungs import BlankedAudit, Images, blank_lungs, box, keep_border
from training.evaluation import Predictions, tabulate
from training.inputs.cache import Cache, ReportProgress
from training.inputs.masking import Lungs, drawn_lungs
from training.metrics.auc import roc_auc_with_interval
from training.metrics.interval import Estimate
from training.networks.keras_types import KerasModel
from training.recipe import TrainingRecipe
from training.runs.finalise import truth_column
from training.runs.loop import Side

BATCH: Final = 32

Change = Callable[[Images, NDArray[np.bool_]], Images]


def audit_lungs(
    recipe: TrainingRecipe,
    network: KerasModel,
    cache: Cache,
    side: Side,
    *,
    lungs: Lungs | None = None,
    progress: ReportProgress,
) -> tuple[BlankedAudit, ...]:
    """Score images whole, with blanked lungs, and with nothing but the border.

    Parameters
    ----------
    recipe
        The run's.
    network
        Its graph, with layers ``calibrate`` and ``prob``.
    cache
        The images.
    side
        Images to score; preferably those of the test.
    lungs
        The mask model, if the network's input is the lungs alone. Lungs are its mask; without one, the
        mask of the case, else the box of ``training.audit.blanked_lungs``.
    progress
        Called with a step's name, how many images are done, and of how many.

    Returns
    -------
    tuple[BlankedAudit, ...]
        One for each class.
    """
    frame = side.cases.frame
    masks = [lungs_at(*paths, cache.recipe, lungs) for paths in zip(frame["path"], frame["mask_path"], strict=True)]
    outputs = keras.Model(network.input, [network.get_layer(name).output for name in ("calibrate", "prob")])

    def predict(step: str, change: Change) -> Predictions:
        batches = []
        for start in range(0, len(side.rows), BATCH):
            rows = side.rows[start : start + BATCH]
            images = np.stack([cache.image(int(row)) for row in rows])
            inside = lungs_or_box(masks[start : start + BATCH], images)
            batches.append([np.asarray(each, np.float64) for each in outputs.predict_on_batch(change(images, inside))])
            progress(step, start + len(rows), len(side.rows))
        logits, probabilities = (np.concatenate(each) for each in zip(*batches, strict=True))
        truth = truth_column(recipe, side.cases.truths)
        return tabulate(side.cases.frame, recipe.task.classes, logits=logits, probabilities=probabilities, truth=truth)

    whole = predict("Whole images", lambda images, _: images)
    blanked = predict("Images without lungs", blank_lungs)
    border = predict("Borders alone", lambda images, _: keep_border(images))
    count = sum(mask is not None for mask in masks)
    return tuple(
        BlankedAudit(
            name=name,
            images=int(whole.has_truth(name).sum()),
            whole=_area(whole, name),
            blanked=_area(blanked, name),
            border_only=_area(border, name),
            masks=count,
        )
        for name in recipe.task.classes
    )


def lung_figures(audits: tuple[BlankedAudit, ...]) -> dict[str, dict[str, float | int | None]]:
    """Return an audit's figures for promotion: class to ``auc``, ``auc_low`` and ``auc_high`` with blanked lungs."""
    return {
        each.name: _ends("auc", each.blanked)
        | _ends("border_only_auc", each.border_only)
        | {"images": each.images, "masks": each.masks}
        for each in audits
    }


def lungs_at(path: str, mask_path: str, recipe: PixelRecipe, lungs: Lungs | None) -> LungMask | None:
    """Return an image's lung mask.

    Parameters
    ----------
    path, mask_path
        Of the manifest; an empty mask path: no drawn mask.
    recipe
        Its geometry is the mask's.
    lungs
        A mask model, which is preferred to the manifest's mask; None: no mask model.

    Returns
    -------
    LungMask | None
        Shape (size, size); None: there is no mask, or the image or its mask can't be read.
    """
    try:
        if lungs is not None:
            return lungs.finder.find(to_model_input(Path(path), recipe))
        return drawn_lungs(mask_path, recipe) if mask_path else None
    except (ImageError, OSError):
        return None


def lungs_or_box(masks: Sequence[LungMask | None], images: Images) -> NDArray[np.bool_]:
    """Return (N, S, S): the masks, and the box of ``training.audit.blanked_lungs`` for images without one."""
    inside = box(images)
    for row, mask in enumerate(masks):
        if mask is not None:
            inside[row] = mask
    return inside


def _area(predictions: Predictions, name: str) -> Estimate | None:
    has_truth = predictions.has_truth(name)
    truth, score = predictions.truth(name)[has_truth], predictions.score(name)[has_truth]
    return roc_auc_with_interval(truth, score, predictions.patients[has_truth])


def _ends(name: str, area: Estimate | None) -> dict[str, float | int | None]:
    interval = None if area is None else area.interval
    return {
        name: None if area is None else round(area.value, 6),
        f"{name}_low": None if interval is None else round(interval.low, 6),
        f"{name}_high": None if interval is None else round(interval.high, 6),
    }
