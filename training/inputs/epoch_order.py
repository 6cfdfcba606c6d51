"""The images of a run and of each epoch, in order: functions of truths, balance and seed alone."""

from __future__ import annotations

import numpy as np

from training.inputs.label_balance import repeat, repeat_factors
from training.inputs.targets import Floats, Rows, strata
from training.recipe import Balance

# Streams of random numbers that share one seed.
_ORDER, _REPEAT = 1, 2


def training_rows(truths: Floats, balance: Balance) -> Rows:
    """Return the rows that the whole run trains on: all, or with ``undersample`` equally many of each class."""
    all_rows = np.arange(len(truths))
    if balance.method != "undersample":
        return all_rows
    keys = strata(truths)
    smallest = np.unique(keys, return_counts=True)[1].min()
    random = np.random.default_rng(balance.seed)
    chosen = [random.choice(np.flatnonzero(keys == key), smallest, replace=False) for key in np.unique(keys)]
    return np.sort(np.concatenate(chosen))


def epoch_order(
    rows: Rows, truths: Floats, balance: Balance, *, seed: int, epoch: int, limit: int | None = None,
    is_multi_label: bool = False,
) -> Rows:  # fmt: skip
    """Return the order of one epoch, a function of its arguments alone.

    Parameters
    ----------
    rows
        The training cases, from ``training_rows``.
    truths
        Of all cases.
    balance
        With ``oversample``, cases of rare classes are repeated up to the size of the largest class; of several
        independent labels, cases with a rare one by ``training.inputs.label_balance.repeat_factors``.
    seed, epoch
        Seed of the random order.
    limit
        Most images of an epoch; None: all.
    is_multi_label
        Whether a case may have any number of the labels.
    """
    order = rows
    random = np.random.default_rng((seed, epoch, _REPEAT))
    if balance.method == "oversample" and is_multi_label:
        order = repeat(rows, repeat_factors(truths[rows]), random)
    elif balance.method == "oversample":
        keys = strata(truths)[rows]
        largest = np.unique(keys, return_counts=True)[1].max()
        order = np.concatenate([_oversample(rows[keys == key], largest, random) for key in np.unique(keys)])
    order = np.random.default_rng((seed, epoch, _ORDER)).permutation(order)
    return order if limit is None else order[:limit]


def _oversample(rows: Rows, count: int, random: np.random.Generator) -> Rows:
    more = random.choice(rows, count - len(rows), replace=True)
    return np.concatenate([rows, more])
