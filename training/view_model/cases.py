"""Training cases of the view model: classes of a manifest's rows, sampling probabilities, folds.

A row whose ``view`` is ``L`` is lateral; a row whose ``label`` is ``not_a_chest`` is no chest radiograph;
every other row is frontal. Synthetic pictures are added (``training.view_model.drawn_pictures``,
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
"""Source of synthetic pictures."""

ONE_BY_ONE: Final = 20
"""With at most this many patients with laterals, each has a fold of its own; with more, there are five folds."""

FOLDS: Final = 5

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ViewCases:
    """Images with their class; synthetic ones at the end.

    Parameters
    ----------
    frame
        Columns ``image_id``, ``path``, ``source``, ``patient_id``, ``split``, ``licence``.
    truths
        (N,): index of each image's class in ``CLASSES``.
    """

    frame: pd.DataFrame
    truths: Indices

    @property
    def is_test(self) -> NDArray[np.bool_]:
        """(N,): whether an image is of the test, and never trained on."""
        tests: NDArray[np.bool_] = (self.frame["split"] == "test").to_numpy(dtype=bool)
        return tests

    def count(self, name: str, *, synthetic: bool = False) -> int:
        """Return the number of a class's training images, real or synthetic."""
        is_synthetic = (self.frame["source"] == SYNTHETIC).to_numpy(dtype=bool)
        return int(((self.truths == CLASSES.index(name)) & ~self.is_test & (is_synthetic == synthetic)).sum())


def view_cases(manifest: pd.DataFrame, *, synthetic: int) -> ViewCases:
    """Return the class of each row, with rows of synthetic pictures added.

    Parameters
    ----------
    manifest
        From ``training.cases.manifest.read_manifest``.
    synthetic
        Number of synthetic pictures for training; half as many more are added to the test.

    Raises
    ------
    ManifestError
        If there is no frontal or no lateral image to train on.
    """
    columns = ["image_id", "path", "source", "patient_id", "split", "licence"]
    names = np.where(manifest["label"] == LABEL, NOT_A_CHEST, np.where(manifest["view"] == "L", LATERAL, FRONTAL))
    pictures = pd.DataFrame("", index=range(synthetic + synthetic // 2), columns=columns)
    pictures["image_id"] = [f"{SYNTHETIC}-{number}" for number in pictures.index]
    pictures["source"], pictures["patient_id"] = SYNTHETIC, pictures["image_id"]
    pictures.loc[synthetic:, "split"] = "test"
    frame = pd.concat([manifest[columns], pictures], ignore_index=True)
    truths = np.array([CLASSES.index(name) for name in [*names, *[NOT_A_CHEST] * len(pictures)]], np.int64)
    cases = ViewCases(frame, truths)
    missing = [name for name in (FRONTAL, LATERAL) if not cases.count(name)]
    if missing or not cases.count(NOT_A_CHEST) + synthetic:
        raise ManifestError(
            f"The manifest has no {' and no '.join(missing or [NOT_A_CHEST])} image to train on; needed are rows with "
            f"view L, frontal rows, and rows with label {LABEL} or synthetic pictures (`cxr train index "
            "--laterals` accepts laterals)."
        )
    return cases


def sampling_probabilities(cases: ViewCases) -> NDArray[np.float64]:
    """Return the probability of each image in a draw, (N,); they add up to 1.

    Classes have weights 1 : 2 : 2 (lateral : frontal : not a chest). Half of the frontal weight is of
    sources with laterals, each in proportion to its laterals, so that the source is no cue to the view;
    the other sources share the other half evenly. Three quarters of the weight of "not a chest" are
    synthetic pictures; sources of real ones share the rest evenly. Images of the test have probability 0.
    """
    is_used, sources = ~cases.is_test, cases.frame["source"].to_numpy(dtype=object)
    weights = np.zeros(len(cases.truths))
    of = {name: is_used & (cases.truths == index) for index, name in enumerate(CLASSES)}
    with_laterals = np.isin(sources, np.unique(sources[of[LATERAL]].astype(str)))
    _spread(weights, [of[LATERAL]], 1.0)
    paired = [of[FRONTAL] & (sources == name) for name in np.unique(sources[of[FRONTAL] & with_laterals].astype(str))]
    others = [of[FRONTAL] & (sources == name) for name in np.unique(sources[of[FRONTAL] & ~with_laterals].astype(str))]
    laterals_of = [float((of[LATERAL] & (sources == sources[source.argmax()])).sum()) for source in paired]
    for source, laterals in zip(paired, laterals_of, strict=True):
        _spread(weights, [source], (1.0 if others else 2.0) * laterals / sum(laterals_of))
    _spread(weights, others, 1.0 if paired else 2.0)
    is_synthetic = sources == SYNTHETIC
    real_sources = np.unique(sources[of[NOT_A_CHEST] & ~is_synthetic].astype(str))
    real = [of[NOT_A_CHEST] & (sources == name) for name in real_sources]
    synthetic = of[NOT_A_CHEST] & is_synthetic
    _spread(weights, real, 0.5 if synthetic.any() else 2.0)
    _spread(weights, [synthetic] if synthetic.any() else [], 1.5 if real else 2.0)
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities


def _spread(weights: NDArray[np.float64], groups: list[NDArray[np.bool_]], total: float) -> None:
    """Add the total to the weights: divided evenly among groups, then among the images of a group."""
    for group in groups:
        weights[group] += total / len(groups) / group.sum()


def assign_folds(cases: ViewCases, *, seed: int) -> tuple[Indices, int]:
    """Assign images to folds of a cross-validation.

    A patient is in one fold, and so is each source of images that are no chest radiograph. With few
    patients with laterals, each has a fold of its own.

    Returns
    -------
    tuple
        The fold of each image, (N,) (-1: test), and the number of folds.
    """
    is_other = cases.truths == CLASSES.index(NOT_A_CHEST)
    is_synthetic = (cases.frame["source"] == SYNTHETIC).to_numpy(dtype=bool)
    patients = cases.frame["patient_id"].where(cases.frame["patient_id"] != "", cases.frame["image_id"])
    groups = patients.where(~(is_other & ~is_synthetic), "origin " + cases.frame["source"]).to_numpy(dtype=object)
    is_used = ~cases.is_test
    laterals = sorted(set(groups[is_used & (cases.truths == CLASSES.index(LATERAL))]))
    count = max(2, len(laterals)) if len(laterals) <= ONE_BY_ONE else FOLDS
    random = np.random.default_rng(seed)
    rest = sorted(set(groups[is_used]) - set(laterals))
    fold_of = {
        group: index % count for index, group in enumerate([*laterals, *random.permutation(np.array(rest, object))])
    }
    return np.array(
        [fold_of[group] if use else -1 for group, use in zip(groups, is_used, strict=True)], np.int64
    ), count
