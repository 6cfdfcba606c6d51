"""Images whose label contradicts the model: a list for a radiologist, not a reason to drop images.

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
    """List images that the model takes for another class than their label.

    Parameters
    ----------
    predictions
        Of images that the model was not trained on (validation, test, or out of fold): a network
        reproduces the labels that it was trained on.
    basis
        Description of these predictions; written into every line.

    Returns
    -------
    pandas.DataFrame
        ``COLUMNS``, the strongest doubt first. An image is listed if the probability of another class
        reaches the mean probability of that class's own images. ``doubt`` is the probability of the
        suggested class minus that of the given one, in [0, 1].
    """
    if predictions.kind == "multiclass":
        probabilities = np.column_stack([predictions.probability(name) for name in predictions.classes])
        label = predictions.frame["y"].to_numpy(dtype=np.int64)
        return _ordered([_suspects(predictions.frame, label, probabilities, predictions.classes, "")], basis)
    tables = []
    for name in predictions.classes:
        has_truth = predictions.has_truth(name)
        probability = predictions.probability(name)[has_truth]
        label = predictions.truth(name)[has_truth].astype(np.int64)
        frame = predictions.frame[has_truth].reset_index(drop=True)
        both = np.column_stack([1 - probability, probability])
        tables.append(_suspects(frame, label, both, (f"not {name}", name), name))
    return _ordered(tables, basis)


def write_suspects(suspects: pd.DataFrame, path: Path) -> None:
    """Write the list, readable by its owner alone: it holds patients' identifiers."""
    write_whole(path, suspects.to_csv(index=False, float_format="%.4f", lineterminator="\n"), private=True)


def _suspects(
    frame: pd.DataFrame,
    label: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    names: tuple[str, ...],
    class_name: str,
) -> pd.DataFrame:
    rows = np.arange(label.size)
    # A class without images has no mean probability, and is never suggested.
    expected = np.array(
        [
            probabilities[label == index, index].mean() if (label == index).any() else np.inf
            for index in range(len(names))
        ]
    )
    others = np.where(probabilities >= expected, probabilities, -1.0)
    others[rows, label] = -1.0
    suggested = others.argmax(axis=1)
    of_given, of_suggested = probabilities[rows, label], others[rows, suggested]
    table = frame[["image_id", "patient_id", "source", "label"]].copy()
    table["class"] = class_name
    table["given"] = np.array(names, dtype=object)[label]
    table["suggested"] = np.array(names, dtype=object)[suggested]
    table["given_probability"] = of_given
    table["doubt"] = of_suggested - of_given
    is_suspect = (of_suggested > of_given) & (of_suggested >= 0)
    return pd.DataFrame(table[is_suspect])


def _ordered(tables: list[pd.DataFrame], basis: str) -> pd.DataFrame:
    whole = pd.concat(tables, ignore_index=True).assign(basis=basis)[list(COLUMNS)]
    return whole.sort_values(["doubt", "image_id"], ascending=[False, True], ignore_index=True)
