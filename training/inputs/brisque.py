"""BRISQUE: a no-reference image quality score from statistics of local contrast, about 0 (natural) to 100.

Its support vector machine was fitted to human ratings of distorted photographs, none of them a
radiograph. It is here because a predecessor of this project excluded images by it. With masked lungs
the score also depends on the black area.

The parameters in ``brisque.npz`` are those of the package ``brisque`` 0.2.0 (Apache License 2.0, Rehan
Guha; after Ricardo Ocampo), rewritten from its libsvm file and its pickle without a change: 770 support
vectors, kernel exp(-0.05 d^2). The package is no dependency: it compiles libsvm when it is installed, and
reads a pickle.

References
----------
Mittal, Moorthy and Bovik 2012, "No-reference image quality assessment in the spatial domain".
"""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import gamma

Floats = NDArray[np.float64]

PARAMETERS: Final = "brisque.npz"
_SIDE: Final = 7  # of the Gaussian, whose deviation is 7 / 6
_CONSTANT: Final = 1 / 255
_SHAPES: Final = np.arange(0.2, 10.001, 0.001)


def brisque(image: NDArray[np.float32]) -> float | None:
    """Return the BRISQUE score of one image.

    Parameters
    ----------
    image
        Shape (size, size, 1) or (size, size), in [0, 1].

    Returns
    -------
    float | None
        Larger is less natural; None: the image has too little contrast for a score.
    """
    grey = np.asarray(image, np.float64).reshape(image.shape[:2])
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    with np.errstate(divide="ignore", invalid="ignore"):
        features = np.array([*_features(grey), *_features(np.asarray(half, np.float64))])
    if not np.isfinite(features).all():
        return None
    model = _parameters()
    scaled = 2 * (features - model["low"]) / (model["high"] - model["low"]) - 1
    distances = ((model["vectors"] - scaled) ** 2).sum(axis=1)
    return float(model["weights"] @ np.exp(-model["gamma"] * distances) - model["rho"])


@cache
def _parameters() -> dict[str, Floats]:
    with as_file(files("training.inputs").joinpath(PARAMETERS)) as path, np.load(path, allow_pickle=False) as file:
        return {name: np.asarray(file[name], np.float64) for name in file.files}


def _features(grey: Floats) -> list[float]:
    """Return the 18 features of one scale: shape and variance, and four for the products of each of 4 neighbours."""
    contrast = _normalised(grey)
    shape, _, left, right = _asymmetric_gaussian(contrast)
    features = [shape, (left + right) / 2]
    for product in (
        contrast[:, :-1] * contrast[:, 1:],
        contrast[:-1] * contrast[1:],
        contrast[:-1, :-1] * contrast[1:, 1:],
        contrast[1:, :-1] * contrast[:-1, 1:],
    ):
        features += _asymmetric_gaussian(product)
    return features


def _normalised(grey: Floats) -> Floats:
    """Subtract the local mean and divide by the local deviation (MSCN coefficients)."""

    def mean(values: Floats) -> Floats:
        smooth: Floats = cv2.GaussianBlur(values, (_SIDE, _SIDE), _SIDE / 6, borderType=cv2.BORDER_CONSTANT)
        return smooth

    centre = mean(grey)
    deviation = np.sqrt(np.abs(mean(grey**2) - centre**2))
    return np.asarray((grey - centre) / (deviation + _CONSTANT))


def _asymmetric_gaussian(values: Floats) -> list[float]:
    """Fit shape, mean, and left and right variance of an asymmetric generalised Gaussian, by moments."""
    # Without values on one side the mean is NaN, and so are the features.
    left, right = (np.sum(part**2) / np.float64(part.size) for part in (values[values < 0], values[values >= 0]))
    ratio = np.sqrt(left / right)
    moments = np.abs(values).mean() ** 2 / (values**2).mean()
    target = moments * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = float(np.interp(target, _moments_of_shapes(), _SHAPES)) if np.isfinite(target) else np.nan
    spread = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    middle = (np.sqrt(right) - np.sqrt(left)) * spread * gamma(2 / shape) / gamma(1 / shape)
    return [shape, float(middle), float(left), float(right)]


@cache
def _moments_of_shapes() -> Floats:
    return np.asarray(gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES)))
