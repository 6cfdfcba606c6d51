"""Augmentation: random changes of training images, each a function of (seed, epoch, row) alone.

No state passes from one image to the next: the images are the same in any order, with any number of
threads, and in a run that was killed and resumed.

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
    """Create the random generator of one image in one epoch."""
    return np.random.Generator(np.random.Philox(counter=[0, 0, row, epoch], key=seed))


def augment(image: Grey, settings: Augment, *, seed: int, epoch: int, row: int) -> Grey:
    """Augment one image.

    Parameters
    ----------
    image
        float32 (size, size, 1), in [0, 1]; not modified.
    settings
        Kinds of change and their largest amounts.
    seed, epoch, row
        Key and counter of the random generator; not negative.

    Returns
    -------
    float32 (size, size, 1), in [0, 1]; areas from outside the image are black.
    """
    if settings == NONE:
        return image
    random = generator(seed, epoch, row)
    # Every number is drawn, used or not, so that disabling one change does not alter the others.
    draws = random.uniform(-1, 1, size=8)
    flips = random.random(2) < 0.5
    noise_seed = int(random.integers(2**63))
    changed = _rotate_zoom_shift(image[:, :, 0], settings, draws)
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


def _rotate_zoom_shift(grey: Grey, settings: Augment, draws: NDArray[np.float64]) -> Grey:
    """Rotate about the centre, zoom and shift in one resampling."""
    if not (settings.rotation_degrees or settings.shift or settings.zoom):
        return grey.copy()
    size = grey.shape[0]
    centre = (size - 1) / 2
    matrix = cv2.getRotationMatrix2D(
        (centre, centre), settings.rotation_degrees * draws[0], 1 + settings.zoom * draws[1]
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
    # Uniform in log(gamma): 0.5 and 2 are equally far from 1.
    exponent = np.float32(np.exp(low + (high - low) * (draw + 1) / 2))
    changed: Grey = np.power(grey, exponent)
    return changed


def _cut_out(grey: Grey, share: float, random: np.random.Generator) -> Grey:
    size = grey.shape[0]
    side = int(random.integers(0, round(share * size), endpoint=True))
    top, left = (int(corner) for corner in random.integers(0, size - side, endpoint=True, size=2))
    grey[top : top + side, left : left + side] = 0
    return grey
