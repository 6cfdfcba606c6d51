"""Golden images: a few images in a package, with their probabilities after training.

The service prepares and scores them with its own code before it promotes the package. If it can't reproduce the
probabilities, the figures of the package's evaluation don't hold for this installation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxr.errors import DamagedPackage
from cxr.package.folder import ModelPackage
from cxr.package.manifest import Probability

GOLDEN_FILE: Final = "golden.json"
"""File name of the list; the images are files of the package, too."""

GOLDEN_TOLERANCE: Final = 1e-4
"""Largest absolute difference of a probability, on the CPU."""

MAX_GOLDEN_IMAGES: Final = 32
"""Most golden images of a package."""

Name = Annotated[str, Field(pattern=r"^golden-[0-9]{2}\.(dcm|png)$")]


class _Image(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    file: Name
    probabilities: tuple[Probability, ...] = Field(min_length=1, strict=False)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    images: tuple[_Image, ...] = Field(min_length=1, max_length=MAX_GOLDEN_IMAGES, strict=False)


@dataclass(frozen=True, slots=True)
class GoldenImage:
    """One image and its expected probabilities."""

    path: Path
    probabilities: tuple[float, ...]  # in the order of the package's classes


def to_golden_document(images: Sequence[tuple[str, Sequence[float]]]) -> bytes:
    """Encode ``golden.json``.

    Parameters
    ----------
    images
        File name and probabilities of each image; probabilities in the order of the package's classes.
    """
    document = {"images": [{"file": name, "probabilities": list(values)} for name, values in images]}
    return json.dumps(_Document.model_validate(document).model_dump(), indent=1).encode() + b"\n"


def read_golden(package: ModelPackage) -> tuple[GoldenImage, ...]:
    """Read ``golden.json`` of a verified package.

    Raises
    ------
    DamagedPackage
        If the file is invalid, lists an image that the package does not hold, or has another number of
        probabilities than the package has classes.
    """
    try:
        document = _Document.model_validate_json((package.folder / GOLDEN_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise DamagedPackage(f"{GOLDEN_FILE} is not a list of golden images: export the model again.") from error
    classes = len(package.manifest.classes)
    for image in document.images:
        if image.file not in package.manifest.files or len(image.probabilities) != classes:
            raise DamagedPackage(f"{GOLDEN_FILE} does not fit the package's files and classes: export the model again.")
    return tuple(GoldenImage(package.folder / image.file, image.probabilities) for image in document.images)
