"""The input gate of a package: which images are unlike its training's, and which scores are undecided.

Component ``input-gate`` of a package. Features are the means of the trunk's last maps; the gate
keeps their principal axes over the training images, and the distance that one in 200 of the images
it was set on exceeds. Split-conformal prediction keeps, for each class, how odd a score may be.

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


class Oddness(BaseModel):
    """How odd a score may be for an answer to stay possible: 1 minus what the model gives that answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    yes: Probability
    no: Probability | None = None  # None with softmax, where another class is the other answer


class Conformal(BaseModel):
    """Split-conformal sets."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    alpha: float = Field(gt=0, lt=1)  # of each answer's cases, the share that its set may miss
    classes: dict[str, Oddness]


class GateComponent(BaseModel):
    """The content of the component."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    layer: str = Field(min_length=1, max_length=128)  # of the graph, whose maps are averaged
    file: FileName = FILE
    distance: float = Field(gt=0, allow_inf_nan=False)  # beyond it, an image is an outlier
    quantile: float = Field(gt=0, lt=1)  # of the images that the distance was set on
    images: int = Field(ge=1)
    conformal: Conformal | None = None


@dataclass(frozen=True, slots=True)
class FeatureSpace:
    """Where features of training images lie.

    Parameters
    ----------
    mean
        Shape (features,).
    axes
        Principal axes, orthonormal; shape (axes, features).
    deviations
        Standard deviation along each axis; shape (axes,), above 0.
    rest
        Root mean square of what the axes leave out; above 0.
    """

    mean: Floats
    axes: Floats
    deviations: Floats
    rest: float

    def distances(self, features: Floats) -> Floats:
        """Mahalanobis distance of each row of features, with one variance for all that the axes leave out.

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
        left = np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        squared = ((along / self.deviations) ** 2).sum(axis=1) + left / self.rest**2
        found: Floats = np.sqrt(squared).astype(np.float32)
        return found

    def to_bytes(self) -> bytes:
        """Write the arrays as an ``.npz`` file; the same arrays give the same bytes."""
        buffer = io.BytesIO()
        rest = np.array(self.rest, np.float32)
        np.savez(buffer, mean=self.mean, axes=self.axes, deviations=self.deviations, rest=rest)
        return buffer.getvalue()


def component_of(manifest: PackageManifest) -> GateComponent | None:
    """Return the input gate that a package has, if it has one.

    Raises
    ------
    IncompatiblePackage
        If the component is not one that this version reads.
    """
    document = manifest.components.get(COMPONENT)
    if document is None:
        return None
    try:
        component = GateComponent.model_validate(document)
    except ValidationError as error:
        faults = ", ".join(".".join(map(str, each["loc"])) for each in error.errors()[:10])
        raise IncompatiblePackage(f"The component {COMPONENT} is not one that is served: {faults}.") from None
    odd = component.conformal.classes if component.conformal is not None else {}
    is_softmax = manifest.activation == "softmax"
    if set(odd) - set(manifest.findings) or any((each.no is None) != is_softmax for each in odd.values()):
        raise IncompatiblePackage(f"The component {COMPONENT} does not fit the package's classes: export it again.")
    return component


def read_space(path: Path) -> FeatureSpace:
    """Read what ``FeatureSpace.to_bytes`` wrote.

    Raises
    ------
    DamagedPackage
        If it is anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        arrays = _load(path) if size <= _MAX_BYTES else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedPackage(f"{path.name} is not an input gate's file: export the model again.") from error
    if arrays is None or not _fits(arrays):
        raise DamagedPackage(f"The arrays of {path.name} do not fit each other: export the model again.")
    return FeatureSpace(arrays["mean"], arrays["axes"], arrays["deviations"], float(arrays["rest"]))


def _load(path: Path) -> Mapping[str, Floats]:
    with np.load(path, allow_pickle=False) as file:
        return {name: np.asarray(file[name], np.float32) for name in ARRAYS}


def _fits(arrays: Mapping[str, NDArray[Any]]) -> bool:
    mean, axes, deviations, rest = (arrays[name] for name in ARRAYS)
    shapes_fit = axes.shape == (len(deviations), len(mean)) if mean.ndim == deviations.ndim == 1 else False
    return (
        shapes_fit
        and rest.shape == ()
        and all(bool(np.isfinite(each).all()) for each in arrays.values())
        and bool((deviations > 0).all() and rest > 0)
    )


def is_unsure(conformal: Conformal, probabilities: Mapping[str, float], *, is_softmax: bool) -> bool:
    """Whether the scores leave an answer open: not exactly one is possible.

    Parameters
    ----------
    conformal
        Of the package.
    probabilities
        Class to score, in [0, 1].
    is_softmax
        Whether exactly one of the classes is true; else each is true or not by itself, and one of
        them that is open makes the whole unsure.
    """
    if is_softmax:
        possible = [name for name, odd in conformal.classes.items() if 1 - probabilities[name] <= odd.yes]
        return len(possible) != 1
    return any(
        (1 - probabilities[name] <= odd.yes) == (odd.no is not None and probabilities[name] <= odd.no)
        for name, odd in conformal.classes.items()
    )
