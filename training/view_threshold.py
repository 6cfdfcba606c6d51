"""Where a view model begins to hold images: what that costs in frontal films is chosen, what it catches follows."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from cxr.view_model import FRONTAL, ViewComponent

FALSE_HOLDS: Final = 0.01
"""Share of frontal films that may be held."""


def frontal_at_least(predictions: pd.DataFrame) -> float:
    """Choose the probability of a frontal film below which an image is held.

    Parameters
    ----------
    predictions
        Of images left out of training: columns ``truth``, ``left_out`` and one for each class. What
        is ``test`` is not looked at.

    Returns
    -------
    float
        The quantile of the frontal films that were left out in turn, rounded down to hundredths; never
        below 0.5, where frontal is no longer the likelier, nor above the confidence.
    """
    is_one = (predictions["truth"] == FRONTAL) & (predictions["left_out"] != "test")
    chances = predictions.loc[is_one, FRONTAL].to_numpy(np.float64)
    quantile = float(np.quantile(chances, FALSE_HOLDS, method="lower")) if len(chances) else 0.5
    return float(np.clip(np.floor(quantile * 100) / 100, 0.5, ViewComponent.model_fields["confidence"].default))
