"""Bounding boxes of findings, in pixels of the image as stored, from its left upper corner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

BOX_COLUMNS = ("image_id", "finding", "reader", "x", "y", "width", "height")
"""Columns of a manifest's table of boxes."""


def box_row(image_id: str, finding: str, sides: Sequence[object], *, reader: str = "") -> dict[str, Any] | None:
    """Return a box's row.

    Parameters
    ----------
    image_id, finding
        As in the manifest.
    sides
        Left, top, width, height.
    reader
        Who drew it, where that is known.

    Returns
    -------
    dict or None
        None if a side is no number, or the box has no area.
    """
    try:
        left, top, width, height = (float(str(side)) for side in sides)
    except ValueError:
        return None
    if not all(map(math.isfinite, (left, top, width, height))) or min(width, height) <= 0:
        return None
    values = (image_id, finding, reader, left, top, width, height)
    return dict(zip(BOX_COLUMNS, values, strict=True))
