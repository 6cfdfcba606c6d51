"""Grad-CAM from features and gradients, for graphs without an evidence output.

References
----------
Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via gradient-based
localization"
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def grad_cam(features: Floats, gradients: Floats) -> Floats:
    """Sum the channels, weighted by their mean gradients, and clip at 0 (equations 1 and 2).

    Parameters
    ----------
    features
        Output of a layer, shape (images, height, width, channels).
    gradients
        Gradients of a class's logit with respect to the features; same shape.

    Returns
    -------
    NDArray[np.float32]
        Shape (images, height, width), at least 0; values are comparable only within one map.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if features.ndim != 4 or features.shape != gradients.shape:
        raise ValueError(f"maps and gradients of one shape are needed; got {features.shape} and {gradients.shape}")
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    maps: Floats = np.maximum((weights * features).sum(axis=-1), 0).astype(np.float32)
    return maps
