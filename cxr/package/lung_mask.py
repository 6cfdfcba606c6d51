"""Lung masks: set every pixel outside the lungs to black, in training and serving alike.

A package of a masked model contains a small U-Net (component ``lung-mask``). It segments the prepared images one by
one on the CPU, so that the cache of training and serving hold the same bytes. This module turns the U-Net's output
into a mask; the caller loads the graph.

A package that was trained with drawn masks (``source`` is ``manifest``) has no U-Net and can't be served, because
images of the service have no masks.
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
LungMask = NDArray[np.bool_]

Segment = Callable[[Grey], Grey]
"""Map an image (size, size), in [0, 1], to the probability of lung of each pixel (size, size), in [0, 1]."""

_MIN_SHARE_OF_SIDE: Final = 0.1
"""Smallest share of the lungs' area on either half of the image; below it, a lung is missing or was not found."""


class MaskSettings(BaseModel):
    """Parameters from a U-Net's probabilities to a mask."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    size: Annotated[int, Field(ge=32, le=1024)]  # rows and columns of the U-Net's input
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5  # smallest probability of a lung pixel
    parts: Annotated[int, Field(ge=1, le=16)] = 2  # number of largest connected parts in the mask
    smallest: Annotated[float, Field(gt=0, lt=1)] = 0.01  # smallest area of a part, as a share of the image


class LungMaskComponent(BaseModel):
    """Content of the component ``lung-mask``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    source: Literal["model", "manifest"]  # of the masks in training; manifest: drawn masks, no U-Net
    file: FileName | None = None
    sha256: Sha256 | None = None  # of the file, as in the manifest's `files`
    settings: MaskSettings | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        is_present = [each is not None for each in (self.file, self.sha256, self.settings)]
        if is_present != [self.source == "model"] * 3:
            raise ValueError("file, sha256 and settings: required with source = model, refused without")
        return self


def component_of(manifest: PackageManifest) -> LungMaskComponent | None:
    """Return the component of a package; None: the model uses unmasked images.

    Raises
    ------
    IncompatiblePackage
        If this version does not support the component, or its file is not in the package.
    """
    document = manifest.components.get(COMPONENT)
    if document is None:
        return None
    try:
        component = LungMaskComponent.model_validate(document)
    except ValidationError as error:
        faults = ", ".join(".".join(map(str, each["loc"])) or "component" for each in error.errors()[:10])
        raise IncompatiblePackage(f"The component {COMPONENT} is not supported; invalid fields: {faults}.") from None
    if component.file is not None and manifest.files.get(component.file) != component.sha256:
        raise IncompatiblePackage(
            f"The component {COMPONENT} names a file that package.json does not list with this digest: export the "
            "package again."
        )
    return component


@dataclass(frozen=True, slots=True)
class GraphInput:
    """One prepared image for a graph.

    Parameters
    ----------
    plain
        Before masking; shape (size, size, 1), in [0, 1].
    pixels
        Input of the graph: ``plain``, or black outside the lungs; shape (size, size, 1).
    lungs
        Lung mask, shape (size, size); None: the graph uses unmasked images.
    """

    plain: Grey
    pixels: Grey
    lungs: LungMask | None = None

    @property
    def is_one_sided(self) -> bool:
        """Whether more than 90 % of the mask lies on one half of the image."""
        if self.lungs is None:
            return False
        middle = self.lungs.shape[1] // 2
        left, right = int(self.lungs[:, :middle].sum()), int(self.lungs[:, middle:].sum())
        return min(left, right) < _MIN_SHARE_OF_SIDE * (left + right)


@dataclass(frozen=True, slots=True)
class LungFinder:
    """Segmentation of lungs with a U-Net.

    Parameters
    ----------
    settings
        From probabilities to a mask.
    segment
        The U-Net.
    """

    settings: MaskSettings
    segment: Segment

    def find(self, plain: Grey) -> LungMask:
        """Segment the lungs.

        Parameters
        ----------
        plain
            A prepared image; shape (size, size, 1), in [0, 1]; of the recipe's size, which may differ from the U-Net's.

        Returns
        -------
        LungMask
            Mask of shape (size, size).

        Raises
        ------
        LungsNotFound
            If no connected part is large enough.
        """
        size = plain.shape[0]
        probabilities = resized(self.segment(resized(plain[:, :, 0], self.settings.size)), size)
        inside = _largest_parts(probabilities >= self.settings.threshold, self.settings)
        if not inside.any():
            raise LungsNotFound(
                "No lung was found in the image, and the model needs segmented lungs: check whether it is a frontal "
                "chest radiograph."
            )
        return inside

    def mask_lungs(self, plain: Grey) -> GraphInput:
        """Segment the lungs, and set all other pixels to black.

        Raises
        ------
        LungsNotFound
            If no connected part is large enough.
        """
        lungs = self.find(plain)
        return GraphInput(plain, masked(plain, lungs), lungs)


def masked(plain: Grey, lungs: LungMask) -> Grey:
    """Set every pixel outside a mask to black.

    Parameters
    ----------
    plain
        Image of shape (size, size, 1).
    lungs
        Mask of shape (size, size).
    """
    pixels: Grey = plain * lungs[:, :, np.newaxis].astype(np.float32)
    return pixels


def resized(picture: Grey, size: int) -> Grey:
    """Resample a square image (n, n) to (size, size): mean over areas when shrinking, linear when enlarging."""
    if picture.shape == (size, size):
        return picture
    kind = cv2.INTER_AREA if size < picture.shape[0] else cv2.INTER_LINEAR
    image: Grey = cv2.resize(picture, (size, size), interpolation=kind)
    return image


def _largest_parts(inside: NDArray[Any], settings: MaskSettings) -> LungMask:
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
    areas = statistics[1:count, cv2.CC_STAT_AREA]  # label 0 is the background
    order = np.argsort(-areas, kind="stable")[: settings.parts]
    largest = [part + 1 for part in order if areas[part] >= settings.smallest * inside.size]
    lungs: LungMask = np.isin(labels, largest)
    return lungs
