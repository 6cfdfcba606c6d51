"""The lungs alone: everything outside them made black, in training and in serving by one function.

A package of masked lungs carries a small U-Net (component ``lung-mask``). It is asked about the
prepared picture, one at a time and on the CPU, so that training, which fills its cache so, and
serving see the same bytes. How a graph is loaded is the caller's; what is done with its answer
stands here.

A package that was trained on masks that people drew has nothing to find lungs with. Its component
says so (``source`` is ``manifest``), and it can't be served: films without masks are not what it knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cxr.errors import IncompatiblePackage, LungsNotFound
from cxr.package.manifest import FileName, PackageManifest, Sha256

COMPONENT: Final = "lung-mask"
FILE: Final = "lung-mask.keras"

Grey = NDArray[np.float32]
Inside = NDArray[np.bool_]

Segment = Callable[[Grey], Grey]
"""From a picture (size, size) in [0, 1] to the chance of lung at each place (size, size), in [0, 1]."""

_ONE_SIDED: Final = 0.1
"""Less of the lungs' area than this share on one side of the picture: a lung was missed, or is not there."""


class MaskSettings(BaseModel):
    """How a U-Net's answer becomes a mask."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    size: Annotated[int, Field(ge=32, le=1024)]  # rows and columns that the U-Net takes
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5  # lung from here on
    parts: Annotated[int, Field(ge=1, le=16)] = 2  # connected parts that are kept, the largest
    smallest: Annotated[float, Field(gt=0, lt=1)] = 0.01  # share of the picture that a part has at least


class LungMaskComponent(BaseModel):
    """The content of the component."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    source: Literal["model", "manifest"]  # of the masks in training; manifest: there is no U-Net, and no serving
    file: FileName | None = None
    sha256: Sha256 | None = None  # of the file, as in the manifest's `files`
    settings: MaskSettings | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        given = [each is not None for each in (self.file, self.sha256, self.settings)]
        if given != [self.source == "model"] * 3:
            raise ValueError("file, sha256 and settings: needed with source = model, and only there")
        return self


def component_of(manifest: PackageManifest) -> LungMaskComponent | None:
    """Return what a package says of its masks; None: it sees whole films.

    Raises
    ------
    IncompatiblePackage
        If the component is not one that this version reads, or its file is not in the package.
    """
    document = manifest.components.get(COMPONENT)
    if document is None:
        return None
    try:
        component = LungMaskComponent.model_validate(document)
    except ValidationError as error:
        faults = ", ".join(".".join(map(str, each["loc"])) or "component" for each in error.errors()[:10])
        raise IncompatiblePackage(f"The component {COMPONENT} is not one that is served: {faults}.") from None
    if component.file is not None and manifest.files.get(component.file) != component.sha256:
        raise IncompatiblePackage(f"The component {COMPONENT} names a file that is not the package's: export it again.")
    return component


@dataclass(frozen=True, slots=True)
class Seen:
    """One picture on its way to a graph.

    Parameters
    ----------
    plain
        As prepared; shape (size, size, 1), in [0, 1].
    pixels
        What the graph gets: the same, or black outside the lungs.
    lungs
        Shape (size, size); None: the graph sees whole films.
    """

    plain: Grey
    pixels: Grey
    lungs: Inside | None = None

    @property
    def is_one_sided(self) -> bool:
        """Whether nearly all of the lungs that were found lie on one side of the picture."""
        if self.lungs is None:
            return False
        middle = self.lungs.shape[1] // 2
        left, right = int(self.lungs[:, :middle].sum()), int(self.lungs[:, middle:].sum())
        return min(left, right) < _ONE_SIDED * (left + right)


@dataclass(frozen=True, slots=True)
class LungFinder:
    """Finds lungs with a U-Net.

    Parameters
    ----------
    settings
        How its answer becomes a mask.
    segment
        The U-Net.
    """

    settings: MaskSettings
    segment: Segment

    def find(self, plain: Grey) -> Inside:
        """Say where the lungs are.

        Parameters
        ----------
        plain
            A prepared picture; shape (size, size, 1), in [0, 1]. The size is the recipe's, not the U-Net's.

        Returns
        -------
        Inside
            Shape (size, size).

        Raises
        ------
        LungsNotFound
            If no part is large enough.
        """
        size = plain.shape[0]
        chances = resized(self.segment(resized(plain[:, :, 0], self.settings.size)), size)
        inside = _largest_parts(chances >= self.settings.threshold, self.settings)
        if not inside.any():
            raise LungsNotFound(
                "No lung was found in the picture, and the model sees lungs alone: look whether it is a frontal chest "
                "radiograph."
            )
        return inside

    def see(self, plain: Grey) -> Seen:
        """Make everything outside the lungs black.

        Raises
        ------
        LungsNotFound
            If there are none.
        """
        lungs = self.find(plain)
        return Seen(plain, masked(plain, lungs), lungs)


def masked(plain: Grey, lungs: Inside) -> Grey:
    """Make everything outside a mask black.

    Parameters
    ----------
    plain
        Shape (size, size, 1).
    lungs
        Shape (size, size).
    """
    kept: Grey = plain * lungs[:, :, np.newaxis].astype(np.float32)
    return kept


def resized(picture: Grey, size: int) -> Grey:
    """Bring a square picture (n, n) to another size: the mean over areas when shrinking, linear when enlarging."""
    if picture.shape == (size, size):
        return picture
    kind = cv2.INTER_AREA if size < picture.shape[0] else cv2.INTER_LINEAR
    other: Grey = cv2.resize(picture, (size, size), interpolation=kind)
    return other


def _largest_parts(inside: NDArray[Any], settings: MaskSettings) -> Inside:
    count, labels, figures, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
    areas = figures[1:count, cv2.CC_STAT_AREA]  # the first is what is outside
    order = np.argsort(-areas, kind="stable")[: settings.parts]
    kept = [part + 1 for part in order if areas[part] >= settings.smallest * inside.size]
    lungs: Inside = np.isin(labels, kept)
    return lungs
