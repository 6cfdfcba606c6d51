"""Read V7 Darwin annotations, and draw their polygons as masks by the even-odd rule.

References
----------
https://docs.v7labs.com/reference/legacy-darwin-json-10, https://docs.v7labs.com/reference/darwin-json
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Path = list[tuple[float, float]]

_SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates
_MIN_CORNERS = 3


@dataclass(frozen=True, slots=True)
class Annotation:
    """One picture's annotations, of version 1.0 or 2.0."""

    file_name: str
    folder: str  # path in V7, without leading and trailing slashes
    width: int
    height: int
    tags: tuple[str, ...]
    polygons: tuple[tuple[str, tuple[Path, ...]], ...]  # name and closed paths, in pixels


def fill(polygons: Iterable[Iterable[Path]], *, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Draw polygons.

    Parameters
    ----------
    polygons
        Each a list of closed paths of (x, y) in pixels: by the even-odd rule a path within another is a
        hole. The mask is the union of the polygons.
    width, height
        Of the picture.

    Returns
    -------
    numpy.ndarray
        Shape (height, width), 255 inside and 0 outside.
    """
    mask = np.zeros((height, width), np.uint8)
    for paths in polygons:
        polygon = np.zeros_like(mask)
        corners = [np.round(np.array(path) * (1 << _SHIFT)).astype(np.int32) for path in paths]
        # All paths of a polygon in one call: OpenCV then fills by the even-odd rule.
        cv2.fillPoly(polygon, corners, 255, shift=_SHIFT)
        mask |= polygon
    return mask


def read_annotation(document: Mapping[str, Any]) -> Annotation:
    """Read a Darwin JSON document, version 1.0 or 2.0.

    Raises
    ------
    ValueError, KeyError, TypeError, AttributeError
        If it is neither.
    """
    if "item" in document:
        item = document["item"]
        slots = item.get("slots") or [{}]
        image = slots[0]
        name, path, slot = item["name"], item.get("path", ""), image.get("slot_name")
    else:
        image = document["image"]
        name, path, slot = image["filename"], image.get("path", ""), None
    annotations = document["annotations"]
    if slot is not None:  # version 2.0: annotations of the first slot, the picture
        annotations = [each for each in annotations if slot in (each.get("slot_names") or [slot])]
    return Annotation(
        file_name=PurePosixPath(str(name)).name,
        folder=str(path or "").strip("/"),
        width=int(image["width"]),
        height=int(image["height"]),
        tags=tuple(str(each["name"]) for each in annotations if "tag" in each),
        polygons=tuple((str(each["name"]), _paths(each)) for each in annotations if _is_polygon(each)),
    )


def _is_polygon(annotation: Mapping[str, Any]) -> bool:
    return "polygon" in annotation or "complex_polygon" in annotation


def _paths(annotation: Mapping[str, Any]) -> tuple[Path, ...]:
    """Return the paths of a polygon: ``path`` (1.0), ``paths`` (2.0), or ``complex_polygon`` (1.0, with holes)."""
    body = annotation.get("polygon") or annotation["complex_polygon"]
    raw = body["paths"] if "paths" in body else body["path"]
    lists = raw if raw and isinstance(raw[0], list) else [raw]
    paths = [[(float(point["x"]), float(point["y"])) for point in points] for points in lists]
    return tuple(path for path in paths if len(path) >= _MIN_CORNERS)
