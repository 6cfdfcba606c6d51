"""Stratified assignment of groups of images to sides of a split.

The largest groups are assigned first, each to the side with the largest shortfall of its strata (after
Sechidis et al. 2011, "On the Stratification of Multi-Label Data",
https://doi.org/10.1007/978-3-642-23808-6_10). Kept own: scikit-learn's ``StratifiedGroupKFold`` makes
folds of equal size only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.intp]


def assign_groups(
    members: Numbers, codes: Numbers, targets: Mapping[str, float], random: np.random.Generator,
    images: Numbers | None = None,
) -> Numbers:  # fmt: skip
    """Assign every group to a side.

    Parameters
    ----------
    members
        (images,): group of each image, numbered from 0.
    codes
        (images,): stratum of each image, numbered from 0; or, with ``images``, a stratum of the image in the same place
        there: an image may be of several.
    targets
        Side to target size, above 0, in any unit.
    random
        Random generator for the order of groups of the same size.
    images
        See ``codes``; None: each image once.

    Returns
    -------
    numpy.ndarray
        (groups,): for each group the index of its side in ``targets``.
    """
    share = np.array(list(targets.values())) / sum(targets.values())
    sizes = np.bincount(members)
    pairs, counts = np.unique(
        np.stack([members if images is None else members[images], codes]), axis=1, return_counts=True
    )
    starts = np.searchsorted(pairs[0], np.arange(len(sizes) + 1))
    order = random.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    totals = _SideTotals(share, np.outer(np.bincount(codes), share), len(members))
    strata, images = pairs[1].tolist(), counts.tolist()
    assigned = [0] * len(sizes)
    for number in order.tolist():
        part = slice(starts[number], starts[number + 1])
        assigned[number] = totals.add(list(zip(strata[part], images[part], strict=True)), int(sizes[number]))
    return np.array(assigned, dtype=np.intp)


class _SideTotals:
    """Images of each side during the assignment; Python lists are fast enough for 65,000 patients."""

    def __init__(self, share: npt.NDArray[np.float64], targets: npt.NDArray[np.float64], images: int) -> None:
        self._targets = targets.tolist()  # stratum -> images by side
        self._target_sizes = (share * images).tolist()
        self._images = [[0] * len(share) for _ in self._targets]
        self._sizes = [0] * len(share)

    def add(self, parts: list[tuple[int, int]], size: int) -> int:
        """Add a group, as (stratum, images) pairs, to the side with the largest shortfall; return the side."""
        side = max(range(len(self._sizes)), key=lambda number: self.shortfall(number, parts, size))
        for stratum, images in parts:
            self._images[stratum][side] += images
        self._sizes[side] += size
        return side

    def shortfall(self, side: int, parts: list[tuple[int, int]], size: int) -> tuple[float, float]:
        """Return a side's shortfall with the group added: of the group's strata, and in size; shares of the targets."""
        of_strata = sum(
            images * (1 - (self._images[stratum][side] + images) / self._targets[stratum][side])
            for stratum, images in parts
        )
        of_size = 1 - (self._sizes[side] + size) / self._target_sizes[side]
        return round(of_strata / size, 9), of_size
