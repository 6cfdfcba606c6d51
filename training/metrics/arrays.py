"""Check and convert arrays of truths, scores and groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def truths_and_scores(truth: ArrayLike, score: ArrayLike) -> tuple[Booleans, Floats]:
    """Return truths as booleans and scores as float64, both (N,).

    Parameters
    ----------
    truth
        (N,): 0 and 1, or booleans.
    score
        (N,): finite; higher means more likely true.

    Raises
    ------
    ValueError
        If the shapes differ, a truth is neither 0 nor 1, or a score is not finite.
    """
    truths, scores = np.asarray(truth), np.asarray(score, dtype=np.float64)
    if truths.ndim != 1 or truths.shape != scores.shape:
        raise ValueError(f"truths and scores are two lists of one length; got shapes {truths.shape}, {scores.shape}")
    if not np.isin(truths, (0, 1)).all():
        raise ValueError("truths are 0 and 1; leave images without a truth out")
    if not np.isfinite(scores).all():
        raise ValueError("scores are finite numbers; got NaN or infinity")
    return truths.astype(bool), scores


def group_codes(groups: ArrayLike | None, count: int) -> Integers:
    """Return each image's group as a number from 0, in the order of names; without groups each image is its own.

    Parameters
    ----------
    groups
        (N,): the patient of each image, or None.
    count
        N.

    Raises
    ------
    ValueError
        If there are more or fewer groups than images.
    """
    if groups is None:
        return np.arange(count, dtype=np.int64)
    names = np.asarray(groups)
    if names.shape != (count,):
        raise ValueError(f"each of the {count} images belongs to one group; got shape {names.shape}")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
