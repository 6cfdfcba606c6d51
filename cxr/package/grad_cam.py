"""Grad-CAM's arithmetic: from features and gradients to a map, for graphs without an evidence map of their own.

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
    """Weigh each channel by its mean gradient, and keep what speaks for the class (equations 1 and 2).

    Parameters
    ----------
    features
        A layer's maps, shape (images, height, width, channels).
    gradients
        Of a class's logit by these maps; the same shape.

    Returns
    -------
    NDArray[np.float32]
        Shape (images, height, width), at least 0; comparable within one map only.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if features.ndim != 4 or features.shape != gradients.shape:
        raise ValueError(f"maps and gradients of one shape are needed; got {features.shape} and {gradients.shape}")
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    found: Floats = np.maximum((weights * features).sum(axis=-1), 0).astype(np.float32)
    return found
