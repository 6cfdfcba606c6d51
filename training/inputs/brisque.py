"""BRISQUE: how unnatural the statistics of a picture's local contrast are, in about 0 (natural) to 100.

It was made for photographs, and its support vector machine was fitted to what people said of distorted
photographs; no radiograph was among them. It is here because a predecessor left pictures out by it. Of
masked lungs it measures how much of the picture is black as well.

The parameters in ``brisque.npz`` are those of the package ``brisque`` 0.2.0 (Apache License 2.0, Rehan
Guha; after Ricardo Ocampo), rewritten from its libsvm file and its pickle without a change: 770 support
vectors, kernel exp(-0.05 d^2). The package itself needs a C compiler where it is installed (libsvm), and
reads a pickle.

References
----------
Mittal, Moorthy and Bovik 2012, "No-reference image quality assessment in the spatial domain".
"""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import gamma

Floats = NDArray[np.float64]

PARAMETERS: Final = "brisque.npz"
_SIDE: Final = 7  # of the Gaussian, whose deviation is 7 / 6
_CONSTANT: Final = 1 / 255
_SHAPES: Final = np.arange(0.2, 10.001, 0.001)


def brisque(picture: NDArray[np.float32]) -> float | None:
    """Score one picture.

    Parameters
    ----------
    picture
        Shape (size, size, 1) or (size, size), in [0, 1].

    Returns
    -------
    float | None
        The larger, the less natural; None: there is no contrast that could be judged.
    """
    grey = np.asarray(picture, np.float64).reshape(picture.shape[:2])
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    with np.errstate(divide="ignore", invalid="ignore"):
        features = np.array([*_features(grey), *_features(np.asarray(half, np.float64))])
    if not np.isfinite(features).all():
        return None
    known = _parameters()
    scaled = 2 * (features - known["low"]) / (known["high"] - known["low"]) - 1
    distances = ((known["vectors"] - scaled) ** 2).sum(axis=1)
    return float(known["weights"] @ np.exp(-known["gamma"] * distances) - known["rho"])


@cache
def _parameters() -> dict[str, Floats]:
    with as_file(files("training.inputs").joinpath(PARAMETERS)) as path, np.load(path, allow_pickle=False) as file:
        return {name: np.asarray(file[name], np.float64) for name in file.files}


def _features(grey: Floats) -> list[float]:
    """Give the 18 features of one scale: shape and variance, and four for each of four neighbours' products."""
    contrast = _normalised(grey)
    shape, _, left, right = _asymmetric_gaussian(contrast)
    found = [shape, (left + right) / 2]
    for product in (
        contrast[:, :-1] * contrast[:, 1:],
        contrast[:-1] * contrast[1:],
        contrast[:-1, :-1] * contrast[1:, 1:],
        contrast[1:, :-1] * contrast[:-1, 1:],
    ):
        found += _asymmetric_gaussian(product)
    return found


def _normalised(grey: Floats) -> Floats:
    """Subtract the local mean and divide by the local deviation (MSCN coefficients)."""

    def mean(values: Floats) -> Floats:
        smooth: Floats = cv2.GaussianBlur(values, (_SIDE, _SIDE), _SIDE / 6, borderType=cv2.BORDER_CONSTANT)
        return smooth

    centre = mean(grey)
    deviation = np.sqrt(np.abs(mean(grey**2) - centre**2))
    return np.asarray((grey - centre) / (deviation + _CONSTANT))


def _asymmetric_gaussian(values: Any) -> list[float]:  # noqa: ANN401 (an array)
    """Fit shape, mean, and left and right variance of an asymmetric generalised Gaussian, by moments."""
    # Without a value on one side the mean is not a number, and neither is what follows from it.
    left, right = (np.sum(part**2) / np.float64(part.size) for part in (values[values < 0], values[values >= 0]))
    ratio = np.sqrt(left / right)
    moments = np.abs(values).mean() ** 2 / (values**2).mean()
    wanted = moments * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = float(np.interp(wanted, _moments_of_shapes(), _SHAPES)) if np.isfinite(wanted) else np.nan
    spread = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    middle = (np.sqrt(right) - np.sqrt(left)) * spread * gamma(2 / shape) / gamma(1 / shape)
    return [shape, float(middle), float(left), float(right)]


@cache
def _moments_of_shapes() -> Floats:
    return np.asarray(gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES)))
