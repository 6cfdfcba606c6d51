"""Pictures without the anatomy of a chest, made by rearranging parts of frontal films.

These pictures have the texture of a film, but not the arrangement of an upright chest: a part of the film, the film
rotated by 90 or 180 degrees, its parts permuted, a limb or a hand with its texture. All are made at three times the
network's resolution, so that blur does not separate them from films.

References
----------
Tack et al., NeurIPS 2020, "CSI: novelty detection via contrastive learning on distributionally
shifted instances" (rotated and permuted images as outliers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.inputs.augment import generator
from training.inputs.cache import build_cache
from training.view_model.drawn_pictures import KINDS, shuttered
from training.view_model.network import RECIPE, SIZE

Grey = NDArray[np.float32]
Random = np.random.Generator

LARGE: Final = 3 * SIZE
"""Rows and columns at which pictures are made."""

CLOSE_UP: Final = (0.22, 0.42)
"""Smallest and largest side of a close-up, as fractions of the film's; it shows less than one and a half lungs."""

CORNER: Final = (0.4, 0.6)
"""Smallest and largest side of a corner: a shoulder, or the abdomen with a part of the lungs."""

_RECIPE: Final = replace(RECIPE, size=LARGE)


def made_of_films(
    films: pd.DataFrame,
    count: int,
    folder: Path,
    *,
    seed: int,
    processes: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Grey]:
    """Make pictures of films, alternating between the kinds.

    Parameters
    ----------
    films
        Frontal rows of a manifest with absolute paths; sampled with replacement.
    count
        Number of pictures.
    folder
        Of prepared images.
    seed
        Of the sample and the pictures.
    processes, progress
        As of ``training.inputs.cache.build_cache``.

    Returns
    -------
    list
        float32 (64, 64) in [0, 1].
    """
    if not count or films.empty:
        return []
    random = np.random.default_rng(seed)
    sample = films.iloc[random.integers(len(films), size=count)]
    cache = build_cache(sample.drop_duplicates("image_id"), _RECIPE, folder, processes=processes, progress=progress)
    names = [name for name in sample["image_id"] if name in cache.rows_by_id]
    makers = tuple(MAKERS.values())
    return [
        _small(makers[number % len(makers)](cache.image(cache.rows_by_id[name])[:, :, 0], generator(seed, 1, number)))
        for number, name in enumerate(names)
    ]


def _small(picture: Grey) -> Grey:
    small: Grey = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return np.clip(small, 0, 1).astype(np.float32)


def _close_up(film: Grey, random: Random) -> Grey:
    """Return a small part, rotated, with covered margins as on films of limbs."""
    part = cv2.resize(_part(film, random, CLOSE_UP), (LARGE, LARGE), interpolation=cv2.INTER_LINEAR)
    middle = (LARGE - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), random.uniform(0, 360), 1.0)
    turned = cv2.warpAffine(part, matrix, (LARGE, LARGE), borderMode=cv2.BORDER_REFLECT)
    return shuttered(_stretched(turned) if random.random() < 0.7 else turned.astype(np.float32), random)


def _corner(film: Grey, random: Random) -> Grey:
    """Return a corner or a part of the lower margin, upright: a shoulder, a flank, the abdomen."""
    side = int(random.uniform(*CORNER) * LARGE)
    rest = LARGE - side
    is_below = random.random() < 0.65
    left = int(random.choice([0, rest // 2, rest])) if is_below else int(random.choice([0, rest]))
    top = rest if is_below else 0
    return film[top : top + side, left : left + side]


def _turned(film: Grey, random: Random) -> Grey:
    """Return the whole film on its side, or upside down."""
    return np.ascontiguousarray(np.rot90(film, int(random.integers(1, 4))))


def _shuffled(film: Grey, random: Random) -> Grey:
    """Return the film as four to sixteen permuted squares, none at its own position, some rotated."""
    across = int(random.choice([2, 3, 4]))
    side = LARGE // across
    squares = [film[row : row + side, column : column + side] for row in range(0, side * across, side)
               for column in range(0, side * across, side)]  # fmt: skip
    order = random.permutation(len(squares))
    moved = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    tiles = [np.rot90(squares[moved[index]], int(random.integers(4)) * int(random.random() < 0.5))
             for index in range(len(squares))]  # fmt: skip
    whole = np.vstack([np.hstack(tiles[row : row + across]) for row in range(0, len(tiles), across)])
    blurred: Grey = cv2.GaussianBlur(whole, (0, 0), random.uniform(0.5, 6))
    return blurred


def _limb_of_tissue(film: Grey, random: Random) -> Grey:
    """Return a drawn limb, hand or slice with the texture of a part of the film."""
    shape = KINDS[str(random.choice(["limb", "hand", "hand", "slice"]))](LARGE, random)
    part = _stretched(cv2.resize(_part(film, random, (0.3, 0.6)), (LARGE, LARGE), interpolation=cv2.INTER_LINEAR))
    tissue = np.rot90(part, int(random.integers(4)))
    picture: Grey = shape * (np.float32(0.45) + np.float32(0.75) * tissue)
    return picture


MAKERS: Final[Mapping[str, Callable[[Grey, Random], Grey]]] = MappingProxyType(
    {
        "close-up": _close_up,
        "corner": _corner,
        "turned": _turned,
        "shuffled": _shuffled,
        "limb of tissue": _limb_of_tissue,
    }
)
"""Kind of picture to its function of a film, float32 (192, 192) in [0, 1]."""


def _part(film: Grey, random: Random, sides: tuple[float, float]) -> Grey:
    side = int(random.uniform(*sides) * LARGE)
    top, left = (int(offset) for offset in random.integers(0, LARGE - side, size=2))
    return film[top : top + side, left : left + side]


def _stretched(picture: Grey) -> Grey:
    stretched: Grey = (picture - picture.min()) / max(float(np.ptp(picture)), 1e-3)
    return stretched.astype(np.float32)
