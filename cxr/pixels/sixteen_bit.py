"""Grey in 65 535 steps, exactly representable in uint16.

A recipe with ``quantised`` rounds its result to these steps, so that training, which reads a cache of uint16, and
serving, which prepares each image, use the same bytes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

STEPS: Final = 65535
"""Steps between black and white. 8-bit grey, v / 255, lies on them exactly: 257 v / 65 535."""


def to_steps(grey: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round grey in [0, 1] to the nearest step, 0 to 65 535; any shape."""
    steps: NDArray[np.uint16] = np.rint(grey * np.float32(STEPS)).astype(np.uint16)
    return steps


def from_steps(steps: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the grey of each step, in [0, 1]; inverse of ``to_steps``."""
    grey: NDArray[np.float32] = steps.astype(np.float32)
    grey /= np.float32(STEPS)
    return grey
