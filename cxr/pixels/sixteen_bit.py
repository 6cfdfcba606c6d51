"""Grey in 65 535 steps: what a file of 16-bit numbers holds is exactly what is served.

A recipe with ``quantised`` rounds its result to these steps, so that training, which reads a file of
uint16, and serving, which prepares each image anew, see the same bytes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

STEPS: Final = 65535
"""Steps between black and white. 8-bit grey, v / 255, lies on them exactly: 257 v / 65 535."""


def to_steps(grey: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round grey in [0, 1] to the nearest step; any shape."""
    steps: NDArray[np.uint16] = np.rint(grey * np.float32(STEPS)).astype(np.uint16)
    return steps


def from_steps(steps: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Give the grey of each step, in [0, 1]; ``to_steps`` of it gives the steps back."""
    grey: NDArray[np.float32] = steps.astype(np.float32)
    grey /= np.float32(STEPS)
    return grey
