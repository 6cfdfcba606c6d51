"""Write masks of the lungs that an adapter makes of a data set's drawings."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from cxr.errors import ManifestError
from training.files import write_whole


def write_mask(mask: npt.NDArray[np.uint8], path: Path) -> Path:
    """Write a mask as PNG (``training.files.whole_file``), and return its path.

    Raises
    ------
    ManifestError
        If it can't be written.
    """
    encoded = cv2.imencode(".png", mask)[1].tobytes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, encoded, private=True)
    except OSError as error:
        raise ManifestError(
            f"A lung mask can't be written ({type(error).__name__}): name a folder that you may write to with --masks."
        ) from error
    return path
