"""Random changes of training images, each a function of (seed, epoch, row) and of nothing else.

Nothing is carried from one image to the next, so that any order, any number of threads and a run
that was killed and resumed see the same images.

References
----------
Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (counter-based generators).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.recipe import Augment

Grey = NDArray[np.float32]

NONE = Augment()


def generator(seed: int, epoch: int, row: int) -> np.random.Generator:
    """Make the generator of one image in one epoch."""
    return np.random.Generator(np.random.Philox(counter=[0, 0, row, epoch], key=seed))


def augment(image: Grey, settings: Augment, *, seed: int, epoch: int, row: int) -> Grey:
    """Change one image at random.

    Parameters
    ----------
    image
        float32 (size, size, 1), in [0, 1]; it stays as it is.
    settings
        How much of what.
    seed, epoch, row
        What the changes are a function of; not negative.

    Returns
    -------
    float32 (size, size, 1), in [0, 1]. What turns in from outside is black.
    """
    if settings == NONE:
        return image
    random = generator(seed, epoch, row)
    # Every number is drawn, used or not: switching one change off leaves the others as they were.
    draws = random.uniform(-1, 1, size=8)
    flips = random.random(2) < 0.5
    noise_seed = int(random.integers(2**63))
    changed = _move(image[:, :, 0], settings, draws)
    if settings.flip_horizontal and flips[0]:
        changed = changed[:, ::-1]
    if settings.flip_vertical and flips[1]:
        changed = changed[::-1]
    changed = _gamma(np.ascontiguousarray(changed), settings, draws[4])
    if settings.noise:
        deviation = np.float32(settings.noise * abs(draws[5]))
        noise = np.random.default_rng(noise_seed).standard_normal(changed.shape, dtype=np.float32)
        changed = np.clip(changed + deviation * noise, 0, 1)
    if settings.cut_out:
        changed = _cut_out(changed, settings.cut_out, random)
    return changed[:, :, np.newaxis]


def _move(grey: Grey, settings: Augment, draws: NDArray[np.float64]) -> Grey:
    """Turn about the middle, enlarge or shrink, and shift: one resampling for all three."""
    if not (settings.rotation_degrees or settings.shift or settings.zoom):
        return grey.copy()
    size = grey.shape[0]
    middle = (size - 1) / 2
    matrix = cv2.getRotationMatrix2D(
        (middle, middle), settings.rotation_degrees * draws[0], 1 + settings.zoom * draws[1]
    )
    matrix[:, 2] += settings.shift * size * draws[2:4]
    moved: Grey = cv2.warpAffine(
        grey, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0
    )
    return moved


def _gamma(grey: Grey, settings: Augment, draw: float) -> Grey:
    low, high = np.log(settings.gamma)
    if low == high == 0:
        return grey
    # Even on a scale where 0.5 and 2 are equally far from 1.
    exponent = np.float32(np.exp(low + (high - low) * (draw + 1) / 2))
    changed: Grey = np.power(grey, exponent)
    return changed


def _cut_out(grey: Grey, share: float, random: np.random.Generator) -> Grey:
    size = grey.shape[0]
    side = int(random.integers(0, round(share * size), endpoint=True))
    top, left = (int(place) for place in random.integers(0, size - side, endpoint=True, size=2))
    grey[top : top + side, left : left + side] = 0
    return grey
