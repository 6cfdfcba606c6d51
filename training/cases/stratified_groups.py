"""Deal groups of images out to sides, so that sizes and labels come out as close as whole groups allow.

The largest groups first, each to the side that lacks its labels most (after Sechidis et al. 2011,
"On the Stratification of Multi-Label Data", https://doi.org/10.1007/978-3-642-23808-6_10).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.intp]


def assign_groups(
    members: Numbers, codes: Numbers, wanted: Mapping[str, float], random: np.random.Generator
) -> Numbers:
    """Choose a side for every group.

    Parameters
    ----------
    members, codes
        For every image, the number of its group and of its stratum.
    wanted
        Sides and their sizes, in any unit, above 0.
    random
        Of the order of groups of the same size.

    Returns
    -------
    numpy.ndarray
        For every group, the number of its side.
    """
    share = np.array(list(wanted.values())) / sum(wanted.values())
    sizes = np.bincount(members)
    pairs, counts = np.unique(np.stack([members, codes]), axis=1, return_counts=True)
    starts = np.searchsorted(pairs[0], np.arange(len(sizes) + 1))
    order = random.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    hands = _Hands(share, np.outer(np.bincount(codes), share), len(members))
    strata, images = pairs[1].tolist(), counts.tolist()
    chosen = [0] * len(sizes)
    for number in order.tolist():
        part = slice(starts[number], starts[number + 1])
        chosen[number] = hands.take(list(zip(strata[part], images[part], strict=True)), int(sizes[number]))
    return np.array(chosen, dtype=np.intp)


class _Hands:
    """What the sides hold while groups are dealt out; plain numbers, for there may be 65,000 patients."""

    def __init__(self, share: npt.NDArray[np.float64], desired: npt.NDArray[np.float64], images: int) -> None:
        self._desired = desired.tolist()  # stratum -> images by side
        self._desired_in_all = (share * images).tolist()
        self._held = [[0] * len(share) for _ in self._desired]
        self._held_in_all = [0] * len(share)

    def take(self, parts: list[tuple[int, int]], size: int) -> int:
        """Give a group, as (stratum, images) pairs, to the side that lacks it most."""
        side = max(range(len(self._held_in_all)), key=lambda number: self._lack(number, parts, size))
        for stratum, images in parts:
            self._held[stratum][side] += images
        self._held_in_all[side] += size
        return side

    def _lack(self, side: int, parts: list[tuple[int, int]], size: int) -> tuple[float, float]:
        """What a side would lack of the group's strata, and in all, after taking it: shares of what it should have."""
        after = sum(
            images * (1 - (self._held[stratum][side] + images) / self._desired[stratum][side])
            for stratum, images in parts
        )
        in_all = 1 - (self._held_in_all[side] + size) / self._desired_in_all[side]
        return round(after / size, 9), in_all
