"""Whether a model still sees the disease when the lungs are gone.

The lungs are painted over and the model scores what is left: borders, markers, collimation, shoulders. A
model that still tells the classes apart reads those.

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
"""Shares of height and width between which the lungs lie on a frontal film."""

BORDER = 0.08
"""Share of each side that the border-only images keep."""

BAR = 0.60
"""An area above this without lungs is a shortcut, if chance is excluded."""


@dataclass(frozen=True, slots=True)
class BlankedAudit:
    """Areas under the ROC curve with the whole image, without lungs, and with the border alone."""

    name: str  # of the class
    images: int
    whole: Estimate | None
    blanked: Estimate | None
    border_only: Estimate | None
    masks: int  # images whose lungs a mask tells; of the others a box is painted over

    @property
    def is_shortcut(self) -> bool:
        """Whether the model tells the classes apart without seeing a lung."""
        return any(
            each is not None and each.value > BAR and (each.interval is None or each.interval.low > 0.5)
            for each in (self.blanked, self.border_only)
        )


def blank_lungs(images: Images, masks: NDArray[np.bool_] | None = None) -> Images:
    """Paint the lungs over with middle grey; a grey of the image's own would carry its source along.

    Parameters
    ----------
    images
        (N, S, S, 1).
    masks
        (N, S, S) of the lungs; None: a box in the middle.
    """
    inside = box(images) if masks is None else np.asarray(masks, dtype=bool)
    return _replaced(images, inside)


def keep_border(images: Images) -> Images:
    """Paint everything over but a frame along the edges."""
    size = images.shape[1]
    width = max(1, round(size * BORDER))
    inside = np.zeros(images.shape[:3], dtype=bool)
    inside[:, width : size - width, width : size - width] = True
    return _replaced(images, inside)


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
        (N, S, S, 1), as the model takes them.
    truth
        (N,): 0 and 1.
    score
        The model, for this class.
    patients
        (N,): the patient of each image; None if each image is of another patient.
    masks
        (N, S, S) of the lungs; None: a box in the middle.
    """

    def area(shown: Images) -> Estimate | None:
        return roc_auc_with_interval(truth, np.ravel(np.asarray(score(shown), dtype=np.float64)), patients)

    return BlankedAudit(
        name=name,
        images=len(images),
        whole=area(images),
        blanked=area(blank_lungs(images, masks)),
        border_only=area(keep_border(images)),
        masks=0 if masks is None else len(images),
    )


def box(images: Images) -> NDArray[np.bool_]:
    """Give (N, S, S), True where the lungs lie on a frontal film, near enough."""
    size = images.shape[1]
    low, high = (round(size * share) for share in BOX)
    inside = np.zeros(images.shape[:3], dtype=bool)
    inside[:, low:high, low:high] = True
    return inside


def _replaced(images: Images, inside: NDArray[np.bool_]) -> Images:
    return np.where(inside[..., np.newaxis], np.float32(0.5), images).astype(np.float32)
