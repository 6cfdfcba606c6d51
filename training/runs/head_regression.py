"""Fit a head on a frozen trunk at once: the mean of its map is linear in the features, so it is a regression.

Exact, in seconds, and the same whatever the order of the images; without augmentation.

References
----------
Hastie, Tibshirani and Friedman 2009, "The elements of statistical learning", 4.4 (logistic regression, L2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from training.inputs.targets import strata

Floats = NDArray[Any]


def fit_head(features: Floats, truths: Floats, weights: Floats, strength: float) -> tuple[Floats, Floats]:
    """Fit a head.

    Parameters
    ----------
    features
        (N, F): the means of the trunk's last maps (``training.networks.features.features_of``).
    truths
        (N, classes), each 0 or 1; with several classes exactly one 1.
    weights
        (N,) of the images.
    strength
        Inverse of the penalty on the squares of the weights, of features of variance 1.

    Returns
    -------
    tuple
        Kernel (1, 1, F, classes) and bias (classes,) of the layer ``evidence``, float32.
    """
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=strength, max_iter=2000)
    model.fit(scaler.transform(features), strata(truths), sample_weight=weights)
    slopes = model.coef_ / scaler.scale_
    bias = model.intercept_ - slopes @ scaler.mean_
    kernel = slopes.T[np.newaxis, np.newaxis]
    return kernel.astype(np.float32), bias.astype(np.float32)
