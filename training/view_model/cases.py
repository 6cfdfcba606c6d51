"""What the view model learns from: which rows of a manifest, how often each is drawn, who is left out together.

A lateral is a row whose ``view`` is ``L``; what is no chest radiograph is a row whose ``label`` is
``not_a_chest``; every other row is frontal. Made pictures are added (``training.view_model.drawn_pictures``,
``training.view_model.rearranged_films``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.errors import ManifestError
from cxr.package.view_model import CLASSES, FRONTAL, LATERAL, NOT_A_CHEST

LABEL: Final = "not_a_chest"
SYNTHETIC: Final = "synthetic"
"""What made pictures have as source."""

ONE_BY_ONE: Final = 20
"""Up to so many patients with laterals, each is left out in turn; beyond, a fifth of all patients."""

FOLDS: Final = 5

Places = NDArray[np.int64]


@dataclass(frozen=True)
class ViewCases:
    """Images with their truth, drawn ones at the end.

    Parameters
    ----------
    frame
        Columns ``image_id``, ``path``, ``source``, ``patient_id``, ``split``, ``licence``.
    truths
        Place of each one's class in ``CLASSES``.
    """

    frame: pd.DataFrame
    truths: Places

    @property
    def is_test(self) -> NDArray[np.bool_]:
        """Which images are never trained on."""
        tests: NDArray[np.bool_] = (self.frame["split"] == "test").to_numpy(dtype=bool)
        return tests

    def count(self, name: str, *, drawn: bool = False) -> int:
        """How many images of a class are trained on, real or drawn."""
        is_drawn = (self.frame["source"] == SYNTHETIC).to_numpy(dtype=bool)
        return int(((self.truths == CLASSES.index(name)) & ~self.is_test & (is_drawn == drawn)).sum())


def choose(manifest: pd.DataFrame, *, synthetic: int) -> ViewCases:
    """Say what each row shows, and add drawn pictures.

    Parameters
    ----------
    manifest
        As ``training.cases.manifest.read_manifest`` gives it.
    synthetic
        Made pictures to train on; half as many more are added to the test.

    Raises
    ------
    ManifestError
        If there is no frontal or no lateral image to train on.
    """
    columns = ["image_id", "path", "source", "patient_id", "split", "licence"]
    names = np.where(manifest["label"] == LABEL, NOT_A_CHEST, np.where(manifest["view"] == "L", LATERAL, FRONTAL))
    drawn = pd.DataFrame("", index=range(synthetic + synthetic // 2), columns=columns)
    drawn["image_id"] = [f"{SYNTHETIC}-{number}" for number in drawn.index]
    drawn["source"], drawn["patient_id"] = SYNTHETIC, drawn["image_id"]
    drawn.loc[synthetic:, "split"] = "test"
    frame = pd.concat([manifest[columns], drawn], ignore_index=True)
    truths = np.array([CLASSES.index(name) for name in [*names, *[NOT_A_CHEST] * len(drawn)]], np.int64)
    cases = ViewCases(frame, truths)
    missing = [name for name in (FRONTAL, LATERAL) if not cases.count(name)]
    if missing or not cases.count(NOT_A_CHEST) + synthetic:
        raise ManifestError(
            f"The manifest has no {' and no '.join(missing or [NOT_A_CHEST])} image to train on; needed are rows with "
            f"view L, frontal rows, and rows with label {LABEL} or drawn pictures (`cxr train index --laterals` takes "
            "laterals in)."
        )
    return cases


def shares(cases: ViewCases) -> NDArray[np.float64]:
    """Say how often each image is drawn.

    Classes are drawn 1 : 2 : 2 (lateral : frontal : not a chest). Sources that have laterals give half
    of the frontal draws, each as many as it gives lateral ones, so that a source does not tell the
    view; the other sources share the other half evenly. Of what is no chest the made pictures are three
    quarters; sources of real ones share the rest evenly. Images of the test are never drawn.
    """
    is_used, sources = ~cases.is_test, cases.frame["source"].to_numpy(dtype=object)
    drawn = np.zeros(len(cases.truths))
    of = {name: is_used & (cases.truths == place) for place, name in enumerate(CLASSES)}
    with_laterals = np.isin(sources, np.unique(sources[of[LATERAL]].astype(str)))
    _spread(drawn, [of[LATERAL]], 1.0)
    twins = [of[FRONTAL] & (sources == name) for name in np.unique(sources[of[FRONTAL] & with_laterals].astype(str))]
    others = [of[FRONTAL] & (sources == name) for name in np.unique(sources[of[FRONTAL] & ~with_laterals].astype(str))]
    laterals_of = [float((of[LATERAL] & (sources == sources[twin.argmax()])).sum()) for twin in twins]
    for twin, laterals in zip(twins, laterals_of, strict=True):
        _spread(drawn, [twin], (1.0 if others else 2.0) * laterals / sum(laterals_of))
    _spread(drawn, others, 1.0 if twins else 2.0)
    is_drawn = sources == SYNTHETIC
    real = [of[NOT_A_CHEST] & (sources == name) for name in np.unique(sources[of[NOT_A_CHEST] & ~is_drawn].astype(str))]
    made = of[NOT_A_CHEST] & is_drawn
    _spread(drawn, real, 0.5 if made.any() else 2.0)
    _spread(drawn, [made] if made.any() else [], 1.5 if real else 2.0)
    found: NDArray[np.float64] = drawn / drawn.sum()
    return found


def _spread(drawn: NDArray[np.float64], groups: list[NDArray[np.bool_]], total: float) -> None:
    """Give each group the same part of the total, and each image of a group the same part of that."""
    for group in groups:
        drawn[group] += total / len(groups) / group.sum()


def folds(cases: ViewCases, *, seed: int) -> tuple[Places, int]:
    """Deal out who is left out together.

    Patients stay together, and so do the sources of what is no chest. With few patients that have
    laterals, each is left out in turn.

    Returns
    -------
    tuple
        The fold of each image (-1: test), and how many folds there are.
    """
    is_other = cases.truths == CLASSES.index(NOT_A_CHEST)
    is_drawn = (cases.frame["source"] == SYNTHETIC).to_numpy(dtype=bool)
    patients = cases.frame["patient_id"].where(cases.frame["patient_id"] != "", cases.frame["image_id"])
    groups = patients.where(~(is_other & ~is_drawn), "origin " + cases.frame["source"]).to_numpy(dtype=object)
    used = ~cases.is_test
    laterals = sorted(set(groups[used & (cases.truths == CLASSES.index(LATERAL))]))
    count = max(2, len(laterals)) if len(laterals) <= ONE_BY_ONE else FOLDS
    random = np.random.default_rng(seed)
    rest = sorted(set(groups[used]) - set(laterals))
    dealt = {
        group: place % count for place, group in enumerate([*laterals, *random.permutation(np.array(rest, object))])
    }
    return np.array([dealt[group] if use else -1 for group, use in zip(groups, used, strict=True)], np.int64), count
