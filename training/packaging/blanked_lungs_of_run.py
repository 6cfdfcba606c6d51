"""What a run's own model makes of images without lungs, and what its cases say against its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import keras
import numpy as np
from numpy.typing import NDArray

from cxr.errors import ImageError
from cxr.package.lung_mask import Inside
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
    """Score images with the lungs painted over, with nothing but the border, and as they are.

    Parameters
    ----------
    recipe
        The run's.
    network
        Its graph, with layers ``calibrate`` and ``prob``.
    cache
        The images.
    side
        Which of them; best those of the test.
    lungs
        The mask model whose lungs alone the network sees. Lungs are where it finds them, or without
        one where the case's mask says, and else in the box of ``training.audit.blanked_lungs``.
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
        found = []
        for start in range(0, len(side.rows), BATCH):
            places = side.rows[start : start + BATCH]
            images = np.stack([cache.image(int(place)) for place in places])
            inside = lungs_or_box(masks[start : start + BATCH], images)
            found.append([np.asarray(each, np.float64) for each in outputs.predict_on_batch(change(images, inside))])
            progress(step, start + len(places), len(side.rows))
        logits, chances = (np.concatenate(each) for each in zip(*found, strict=True))
        truth = truth_column(recipe, side.cases.truths)
        return tabulate(side.cases.frame, recipe.task.classes, logits=logits, probabilities=chances, truth=truth)

    whole = predict("Whole images", lambda images, _: images)
    blanked = predict("Images without lungs", blank_lungs)
    border = predict("Borders alone", lambda images, _: keep_border(images))
    count = sum(mask is not None for mask in masks)
    return tuple(
        BlankedAudit(
            name=name,
            images=int(whole.known(name).sum()),
            whole=_area(whole, name),
            blanked=_area(blanked, name),
            border_only=_area(border, name),
            masks=count,
        )
        for name in recipe.task.classes
    )


def lung_figures(audits: tuple[BlankedAudit, ...]) -> dict[str, dict[str, float | int | None]]:
    """Return what promotion reads of an audit: for each class ``auc``, ``auc_low`` and ``auc_high`` without lungs."""
    return {
        each.name: _ends("auc", each.blanked)
        | _ends("border_only_auc", each.border_only)
        | {"images": each.images, "masks": each.masks}
        for each in audits
    }


def lungs_at(path: str, mask_path: str, recipe: PixelRecipe, lungs: Lungs | None) -> Inside | None:
    """Say where an image's lungs are.

    Parameters
    ----------
    path, mask_path
        Of the manifest; no mask path: no mask is drawn.
    recipe
        In whose geometry.
    lungs
        A mask model, which is asked rather than the manifest; None: there is none.

    Returns
    -------
    Inside | None
        Shape (size, size); None: nobody knows.
    """
    try:
        if lungs is not None:
            return lungs.finder.find(to_model_input(Path(path), recipe))
        return drawn_lungs(mask_path, recipe) if mask_path else None
    except (ImageError, OSError):
        return None


def lungs_or_box(masks: Sequence[Inside | None], images: Images) -> NDArray[np.bool_]:
    """Give (N, S, S): the masks, and the box of ``training.audit.blanked_lungs`` where there is none."""
    inside = box(images)
    for row, mask in enumerate(masks):
        if mask is not None:
            inside[row] = mask
    return inside


def _area(predictions: Predictions, name: str) -> Estimate | None:
    known = predictions.known(name)
    truth, score = predictions.truth(name)[known], predictions.score(name)[known]
    return roc_auc_with_interval(truth, score, predictions.patients[known])


def _ends(name: str, area: Estimate | None) -> dict[str, float | int | None]:
    interval = None if area is None else area.interval
    return {
        name: None if area is None else round(area.value, 6),
        f"{name}_low": None if interval is None else round(interval.low, 6),
        f"{name}_high": None if interval is None else round(interval.high, 6),
    }
