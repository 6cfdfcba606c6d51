"""Logistic regression of a head on a frozen trunk: the mean of an evidence map is linear in the features.

It takes seconds, converges to the optimum, and does not depend on the order of the images; there is no
augmentation.

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
    """Fit an evidence head by logistic regression.

    Parameters
    ----------
    features
        (N, F): means of the trunk's last feature maps (``training.networks.features.features_of``).
    truths
        (N, classes), each 0 or 1; with several classes exactly one 1.
    weights
        (N,): sample weights.
    strength
        C of the L2 penalty (its inverse weight), with features scaled to variance 1.

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
