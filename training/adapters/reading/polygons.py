"""Polygons of lungs as masks, by the even-odd rule, and annotations of V7 Darwin as values.

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

_SHIFT = 4  # binary digits behind the point that OpenCV takes
_MIN_CORNERS = 3


@dataclass(frozen=True, slots=True)
class Annotation:
    """One picture's annotations, whatever the version."""

    file_name: str
    folder: str  # as V7 has it, without slashes at the ends
    width: int
    height: int
    tags: tuple[str, ...]
    polygons: tuple[tuple[str, tuple[Path, ...]], ...]  # name and closed paths, in pixels


def fill(polygons: Iterable[Iterable[Path]], *, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Draw polygons.

    Parameters
    ----------
    polygons
        Each a number of closed paths of (x, y) in pixels: by the even-odd rule a path within
        another is a hole. Different polygons are joined.
    width, height
        Of the picture.

    Returns
    -------
    numpy.ndarray
        Shape (height, width), 255 inside and 0 outside.
    """
    mask = np.zeros((height, width), np.uint8)
    for paths in polygons:
        one = np.zeros_like(mask)
        corners = [np.round(np.array(path) * (1 << _SHIFT)).astype(np.int32) for path in paths]
        # All paths of a polygon in one call: OpenCV then fills by the even-odd rule.
        cv2.fillPoly(one, corners, 255, shift=_SHIFT)
        mask |= one
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
        place = slots[0]
        name, where, slot = item["name"], item.get("path", ""), place.get("slot_name")
    else:
        place = document["image"]
        name, where, slot = place["filename"], place.get("path", ""), None
    if slot is not None:
        is_here = [slot in (one.get("slot_names") or [slot]) for one in document["annotations"]]
        annotations = [one for one, here in zip(document["annotations"], is_here, strict=True) if here]
    else:
        annotations = document["annotations"]
    return Annotation(
        file_name=PurePosixPath(str(name)).name,
        folder=str(where or "").strip("/"),
        width=int(place["width"]),
        height=int(place["height"]),
        tags=tuple(str(one["name"]) for one in annotations if "tag" in one),
        polygons=tuple((str(one["name"]), _paths(one)) for one in annotations if _is_polygon(one)),
    )


def _is_polygon(annotation: Mapping[str, Any]) -> bool:
    return "polygon" in annotation or "complex_polygon" in annotation


def _paths(annotation: Mapping[str, Any]) -> tuple[Path, ...]:
    """Paths of a polygon: ``path`` (1.0), ``paths`` (2.0), or ``complex_polygon`` (1.0, with holes)."""
    body = annotation.get("polygon") or annotation["complex_polygon"]
    raw = body["paths"] if "paths" in body else body["path"]
    lists = raw if raw and isinstance(raw[0], list) else [raw]
    read = [[(float(point["x"]), float(point["y"])) for point in points] for points in lists]
    return tuple(path for path in read if len(path) >= _MIN_CORNERS)
