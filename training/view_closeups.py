"""Close-ups of frontal films, which are no chest radiographs: real bone and tissue, but not the picture of a chest.

They are cut out of the films at three times the resolution that the network sees, so that no blur
tells them, turned and covered at the margins as films of limbs are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.augment import generator
from training.cache import build_cache
from training.view_network import RECIPE, SIZE
from training.view_synthetic import shuttered

Grey = NDArray[np.float32]

LARGE: Final = 3 * SIZE
SIDES: Final = (0.22, 0.42)
"""Sides of a close-up, as shares of the film's: less than a lung and a half."""

_RECIPE: Final = replace(RECIPE, size=LARGE)


def close_ups(
    films: pd.DataFrame,
    count: int,
    folder: Path,
    *,
    seed: int,
    processes: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Grey]:
    """Cut close-ups out of films.

    Parameters
    ----------
    films
        Rows of a manifest with absolute paths, frontal; as many as are wanted are drawn from them.
    count
        How many close-ups.
    folder
        Of prepared images.
    seed
        Of what is cut out of which.
    processes, progress
        As of ``training.cache.build_cache``.

    Returns
    -------
    list
        float32 (64, 64) in [0, 1].
    """
    if not count or films.empty:
        return []
    random = np.random.default_rng(seed)
    drawn = films.iloc[np.sort(random.integers(len(films), size=count))]
    cache = build_cache(drawn.drop_duplicates("image_id"), _RECIPE, folder, processes=processes, progress=progress)
    names = [name for name in drawn["image_id"] if name in cache.rows_by_id]
    return [_cut(cache.image(cache.rows_by_id[name])[:, :, 0], seed, number) for number, name in enumerate(names)]


def _cut(film: Grey, seed: int, number: int) -> Grey:
    random = generator(seed, 1, number)
    side = int(random.uniform(*SIDES) * LARGE)
    top, left = (int(place) for place in random.integers(0, LARGE - side, size=2))
    part = cv2.resize(film[top : top + side, left : left + side], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    matrix = cv2.getRotationMatrix2D(((SIZE - 1) / 2, (SIZE - 1) / 2), random.uniform(0, 360), 1.0)
    turned = cv2.warpAffine(part, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT)
    spread = max(float(np.ptp(turned)), 1e-3)
    stretched = (turned - turned.min()) / spread if random.random() < 0.7 else turned
    found: Grey = np.clip(shuttered(stretched.astype(np.float32), random), 0, 1)
    return found
