"""The input gate of a package: detection of outlier images and of undecided scores.

Component ``input-gate`` of a package. Features are the spatial means of the trunk's last feature maps. The gate
stores the principal axes of the features of the training images, and a distance threshold at a quantile of held-out
images. Split-conformal prediction stores thresholds on 1 - probability for each class.

References
----------
Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples" (Mahalanobis
distance of features); Vovk 2012, "Conditional validity of inductive conformal predictors"
(class-conditional split-conformal sets).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxr.errors import DamagedPackage, IncompatiblePackage
from cxr.package.manifest import FileName, PackageManifest, Probability

COMPONENT: Final = "input-gate"
FILE: Final = "input-gate.npz"
ARRAYS: Final = ("mean", "axes", "deviations", "rest")
_MAX_BYTES: Final = 64 << 20

Floats = NDArray[np.float32]


class ConformalThresholds(BaseModel):
    """Thresholds on 1 - probability of an answer: up to it, the answer is in the conformal set."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    yes: Probability
    no: Probability | None = None  # None with softmax, where the other classes are the alternatives


class Conformal(BaseModel):
    """Settings of split-conformal prediction."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    alpha: float = Field(gt=0, lt=1)  # permitted share of each answer's cases whose set omits the true answer
    classes: dict[str, ConformalThresholds]


class GateComponent(BaseModel):
    """Content of the component ``input-gate``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    layer: str = Field(min_length=1, max_length=128)  # layer of the graph whose output is averaged
    file: FileName = FILE
    distance: float = Field(gt=0, allow_inf_nan=False)  # above it, an image is an outlier
    quantile: float = Field(gt=0, lt=1)  # of the distances of the calibration images
    images: int = Field(ge=1)  # number of calibration images
    conformal: Conformal | None = None


@dataclass(frozen=True, slots=True)
class FeatureSpace:
    """Gaussian model of the features of the training images.

    Parameters
    ----------
    mean
        Shape (features,).
    axes
        Principal axes, orthonormal; shape (axes, features).
    deviations
        Standard deviation along each axis; shape (axes,), above 0.
    rest
        Standard deviation of the remainder orthogonal to the axes, one for all directions; above 0.
    """

    mean: Floats
    axes: Floats
    deviations: Floats
    rest: float

    def distances(self, features: Floats) -> Floats:
        """Return the Mahalanobis distance of each row of features.

        Parameters
        ----------
        features
            Shape (images, features).

        Returns
        -------
        Floats
            Shape (images,), at least 0.
        """
        centred = np.asarray(features, np.float64) - self.mean
        along = centred @ self.axes.T.astype(np.float64)
        remainder = np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        squared = ((along / self.deviations) ** 2).sum(axis=1) + remainder / self.rest**2
        distances: Floats = np.sqrt(squared).astype(np.float32)
        return distances

    def to_bytes(self) -> bytes:
        """Encode the arrays as an ``.npz`` file, deterministically."""
        buffer = io.BytesIO()
        rest = np.array(self.rest, np.float32)
        np.savez(buffer, mean=self.mean, axes=self.axes, deviations=self.deviations, rest=rest)
        return buffer.getvalue()


def component_of(manifest: PackageManifest) -> GateComponent | None:
    """Return the component of a package; None without one.

    Raises
    ------
    IncompatiblePackage
        If this version does not support the component.
    """
    document = manifest.components.get(COMPONENT)
    if document is None:
        return None
    try:
        component = GateComponent.model_validate(document)
    except ValidationError as error:
        faults = ", ".join(".".join(map(str, each["loc"])) for each in error.errors()[:10])
        raise IncompatiblePackage(f"The component {COMPONENT} is not supported; invalid fields: {faults}.") from None
    thresholds = component.conformal.classes if component.conformal is not None else {}
    is_softmax = manifest.activation == "softmax"
    is_mixed = any((each.no is None) != is_softmax for each in thresholds.values())
    if is_mixed or set(thresholds) - set(manifest.findings):
        raise IncompatiblePackage(f"The component {COMPONENT} does not fit the package's classes: export it again.")
    return component


def read_space(path: Path) -> FeatureSpace:
    """Read a file of ``FeatureSpace.to_bytes``.

    Raises
    ------
    DamagedPackage
        If the file is invalid.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        arrays = _load(path) if size <= _MAX_BYTES else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedPackage(f"{path.name} is not an input gate's file: export the model again.") from error
    if arrays is None or not _are_consistent(arrays):
        raise DamagedPackage(f"The arrays of {path.name} are inconsistent: export the model again.")
    return FeatureSpace(arrays["mean"], arrays["axes"], arrays["deviations"], float(arrays["rest"]))


def _load(path: Path) -> Mapping[str, Floats]:
    with np.load(path, allow_pickle=False) as file:
        return {name: np.asarray(file[name], np.float32) for name in ARRAYS}


def _are_consistent(arrays: Mapping[str, NDArray[Any]]) -> bool:
    mean, axes, deviations, rest = (arrays[name] for name in ARRAYS)
    shapes_fit = axes.shape == (len(deviations), len(mean)) if mean.ndim == deviations.ndim == 1 else False
    return (
        shapes_fit
        and rest.shape == ()
        and all(bool(np.isfinite(each).all()) for each in arrays.values())
        and bool((deviations > 0).all() and rest > 0)
    )


def is_unsure(conformal: Conformal, probabilities: Mapping[str, float], *, is_softmax: bool) -> bool:
    """Check whether a conformal set does not hold exactly one answer.

    Parameters
    ----------
    conformal
        Thresholds of the package.
    probabilities
        Probability of each class, in [0, 1].
    is_softmax
        True: the set holds classes, of which exactly one is true. False: each class has a set of its own, of
        yes and no; one undecided class suffices.
    """
    if is_softmax:
        conformal_set = [name for name, limit in conformal.classes.items() if 1 - probabilities[name] <= limit.yes]
        return len(conformal_set) != 1
    return any(
        (1 - probabilities[name] <= limit.yes) == (limit.no is not None and probabilities[name] <= limit.no)
        for name, limit in conformal.classes.items()
    )
