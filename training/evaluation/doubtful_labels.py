"""Images whose label the model doubts: a list for a radiologist, not a reason to drop anything.

References
----------
Northcutt, Jiang, Chuang, JAIR 2021;70:1373 (confident learning).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.evaluation.predictions import Predictions
from training.files import write_whole

COLUMNS = (
    "image_id",
    "patient_id",
    "source",
    "label",
    "class",
    "given",
    "suggested",
    "given_probability",
    "doubt",
    "basis",
)
SUSPECTS_FILE = "suspects.csv"


def find_suspects(predictions: Predictions, *, basis: str) -> pd.DataFrame:
    """List images that look like another class than their label says.

    Parameters
    ----------
    predictions
        Of images that the model was not trained on (validation, test, or out of fold): a network
        believes every label that it has learnt.
    basis
        Which predictions these are, in words; it stands in every line.

    Returns
    -------
    pandas.DataFrame
        ``COLUMNS``, the strongest doubt first. An image is listed if the probability of another class
        reaches what that class's own images have on average. ``doubt`` is how much more probable
        the suggested class is than the given one, in [0, 1].
    """
    if predictions.kind == "multiclass":
        chances = np.column_stack([predictions.probability(name) for name in predictions.classes])
        label = predictions.frame["y"].to_numpy(dtype=np.int64)
        return _ordered([_doubted(predictions.frame, label, chances, predictions.classes, "")], basis)
    tables = []
    for name in predictions.classes:
        known = predictions.known(name)
        chance = predictions.probability(name)[known]
        label = predictions.truth(name)[known].astype(np.int64)
        frame = predictions.frame[known].reset_index(drop=True)
        tables.append(_doubted(frame, label, np.column_stack([1 - chance, chance]), (f"not {name}", name), name))
    return _ordered(tables, basis)


def write_suspects(suspects: pd.DataFrame, path: Path) -> None:
    """Write the list; it names patients, so only its owner may read it."""
    write_whole(path, suspects.to_csv(index=False, float_format="%.4f", lineterminator="\n"), private=True)


def _doubted(
    frame: pd.DataFrame,
    label: NDArray[np.int64],
    chances: NDArray[np.float64],
    names: tuple[str, ...],
    class_name: str,
) -> pd.DataFrame:
    rows = np.arange(label.size)
    # A class without images can't be suggested: nobody knows what it would look like.
    expected = np.array(
        [chances[label == place, place].mean() if (label == place).any() else np.inf for place in range(len(names))]
    )
    others = np.where(chances >= expected, chances, -1.0)
    others[rows, label] = -1.0
    suggested = others.argmax(axis=1)
    given_chance, suggested_chance = chances[rows, label], others[rows, suggested]
    table = frame[["image_id", "patient_id", "source", "label"]].copy()
    table["class"] = class_name
    table["given"] = np.array(names, dtype=object)[label]
    table["suggested"] = np.array(names, dtype=object)[suggested]
    table["given_probability"] = given_chance
    table["doubt"] = suggested_chance - given_chance
    is_doubted = (suggested_chance > given_chance) & (suggested_chance >= 0)
    return pd.DataFrame(table[is_doubted])


def _ordered(tables: list[pd.DataFrame], basis: str) -> pd.DataFrame:
    whole = pd.concat(tables, ignore_index=True).assign(basis=basis)[list(COLUMNS)]
    return whole.sort_values(["doubt", "image_id"], ascending=[False, True], ignore_index=True)
