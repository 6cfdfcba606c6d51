"""Balance of several independent labels, of which an image may have any number.

No single stratum says how rare an image is: each label is balanced by itself, in the loss by weights of its yes and no,
or in the epoch by repeating the images that have a rare label.

References
----------
Gupta et al. 2019, "LVIS", Appendix B (repeat factors), https://arxiv.org/abs/1908.03195; the weights are those of
Rajpurkar et al. 2017, "CheXNet", https://arxiv.org/abs/1711.05225, with mean 1
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.inputs.targets import UNKNOWN, Floats, Rows


def label_weights(truths: Floats, weights: Floats) -> Floats:
    """Return the weight of no and yes of each label, so that both have the same sum over the images.

    Parameters
    ----------
    truths
        (N, labels): 1, 0 or ``UNKNOWN``, of the images that are trained on.
    weights
        (N,): of the images.

    Returns
    -------
    numpy.ndarray
        float32 (2, labels): no, yes; their mean over a label's known images is 1. Both are 1 for a label that has only
        one of them.
    """
    of_image = weights.astype(np.float64)[:, np.newaxis]
    sums = np.stack([np.sum(of_image * (truths == 0), axis=0), np.sum(of_image * (truths == 1), axis=0)])
    has_both = (sums > 0).all(axis=0)
    balanced = sums.sum(axis=0) / (2 * np.where(sums > 0, sums, 1))
    return np.where(has_both, balanced, 1.0).astype(np.float32)


def repeat_factors(truths: Floats) -> NDArray[np.float64]:
    """Return how often an image occurs in an epoch, (N,): 1, or more where it has a rare label.

    The factor of a label is the root of how much more frequent the most frequent label is; that of an image is the
    largest of its labels.
    """
    is_known, is_present = truths != UNKNOWN, truths == 1
    share = is_present.sum(axis=0) / np.maximum(is_known.sum(axis=0), 1)
    factors = np.sqrt(share.max() / np.where(share > 0, share, share.max() or 1.0))
    largest: NDArray[np.float64] = np.where(is_present, factors, 1.0).max(axis=1)
    return np.maximum(largest, 1.0)


def repeat(rows: Rows, factors: NDArray[np.float64], random: np.random.Generator) -> Rows:
    """Repeat rows by their factors; the fractions are rounded at random, with the same total every time."""
    order = random.permutation(len(rows))
    whole = np.floor(factors)
    steps = np.floor(np.cumsum((factors - whole)[order]) + 0.5)
    counts = whole.astype(np.int64)
    counts[order] += np.diff(steps, prepend=0.0).astype(np.int64)
    return np.repeat(rows, counts)
