"""Audit with blanked lungs: a model that still separates the classes uses a shortcut.

The lungs are painted over, and the model scores the remaining image: borders, markers, collimation,
shoulders.

References
----------
Maguolo and Nanni, Information Fusion 2021;76:1 (networks that classify COVID-19 films without lungs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.metrics.auc import roc_auc_with_interval
from training.metrics.interval import Estimate

Images = NDArray[np.float32]
"""(N, S, S, 1), in [0, 1]."""

Score = Callable[[Images], ArrayLike]
"""From images to (N,) scores of one class: logits or probabilities."""

BOX = (0.12, 0.88)
"""Extent of the lungs on a frontal film, as shares of height and width."""

BORDER = 0.08
"""Width of the frame in border-only images, as a share of the side."""

SHORTCUT_AUC = 0.60
"""ROC AUC without lungs above which a shortcut is reported, if the interval excludes 0.5."""


@dataclass(frozen=True, slots=True)
class BlankedAudit:
    """ROC AUC with the whole image, without lungs, and with the border alone."""

    name: str  # of the class
    images: int
    whole: Estimate | None
    blanked: Estimate | None
    border_only: Estimate | None
    masks: int  # images with a lung mask; in the others a box is painted

    @property
    def is_shortcut(self) -> bool:
        """Whether the model separates the classes without lungs."""
        return any(
            each is not None and each.value > SHORTCUT_AUC and (each.interval is None or each.interval.low > 0.5)
            for each in (self.blanked, self.border_only)
        )


def blank_lungs(images: Images, masks: NDArray[np.bool_] | None = None) -> Images:
    """Paint the lungs with grey 0.5; a grey level taken from the image could reveal its source.

    Parameters
    ----------
    images
        (N, S, S, 1).
    masks
        Lung masks (N, S, S); None: a box in the centre.
    """
    inside = box(images) if masks is None else np.asarray(masks, dtype=bool)
    return _paint(images, inside)


def keep_border(images: Images) -> Images:
    """Paint everything with grey 0.5 except a frame along the edges."""
    size = images.shape[1]
    width = max(1, round(size * BORDER))
    inside = np.zeros(images.shape[:3], dtype=bool)
    inside[:, width : size - width, width : size - width] = True
    return _paint(images, inside)


def blanked_audit(
    name: str,
    images: Images,
    truth: ArrayLike,
    score: Score,
    *,
    patients: ArrayLike | None = None,
    masks: NDArray[np.bool_] | None = None,
) -> BlankedAudit:
    """Score images as they are, without lungs, and with the border alone.

    Parameters
    ----------
    name
        Of the class.
    images
        (N, S, S, 1): input of the model.
    truth
        (N,): 0 and 1.
    score
        Function from images to scores of this class.
    patients
        (N,): the patient of each image; None if each image is of another patient.
    masks
        Lung masks (N, S, S); None: a box in the centre.
    """

    def area(variant: Images) -> Estimate | None:
        return roc_auc_with_interval(truth, np.ravel(np.asarray(score(variant), dtype=np.float64)), patients)

    return BlankedAudit(
        name=name,
        images=len(images),
        whole=area(images),
        blanked=area(blank_lungs(images, masks)),
        border_only=area(keep_border(images)),
        masks=0 if masks is None else len(images),
    )


def box(images: Images) -> NDArray[np.bool_]:
    """Return bool (N, S, S), True in a box around the lungs of a frontal film."""
    size = images.shape[1]
    low, high = (round(size * share) for share in BOX)
    inside = np.zeros(images.shape[:3], dtype=bool)
    inside[:, low:high, low:high] = True
    return inside


def _paint(images: Images, inside: NDArray[np.bool_]) -> Images:
    return np.where(inside[..., np.newaxis], np.float32(0.5), images).astype(np.float32)
