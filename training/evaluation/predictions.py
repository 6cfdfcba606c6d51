"""The predictions of one model over one manifest, as a CSV file: the input of every figure.

One row per image. Columns: ``COLUMNS``, then ``logit_<class>`` (optional) and ``prob_<class>`` for
each class in the order of the model's outputs; for findings that don't exclude each other
(multi-label), ``y_<class>`` (1, 0, or empty where the data set has no label). Further columns are
kept unread. docs/evaluation.md explains them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from cxr.errors import PredictionsError
from training.cases import line_of
from training.files import write_whole
from training.metrics.calibration import sigmoid, softmax_rows
from training.metrics.subgroups import age_band

COLUMNS = ("image_id", "patient_id", "source", "view", "sex", "age", "site", "manufacturer", "label", "y")
"""Columns of every predictions file; ``y`` is 0 or 1 for one class, else the number of the true class."""

TEXTS = ("image_id", "patient_id", "source", "view", "sex", "site", "manufacturer", "label")
REQUIRED = ("image_id", "y")
TOLERANCE = 2e-3
"""Largest difference of a probability from that of its logit: float16 graphs round."""

Kind = Literal["binary", "multiclass", "multilabel"]
Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
RowName = Callable[[int], str]


def _row(row: int) -> str:
    return f"row {row}"


@dataclass(frozen=True)
class Predictions:
    """A checked table of predictions.

    ``binary``: one class, sigmoid. ``multiclass``: exactly one class is true, softmax.
    ``multilabel``: several sigmoids.
    """

    frame: pd.DataFrame
    classes: tuple[str, ...]
    kind: Kind

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def is_image_wise(self) -> bool:
        """Whether some image's patient is unknown: intervals then take each such image as another patient."""
        return bool((self.frame["patient_id"] == "").any())

    @property
    def patients(self) -> NDArray[np.object_]:
        """(N,): the patient of each image; an image of an unknown patient is a patient of its own."""
        frame = self.frame
        own = "image " + frame["image_id"]
        return np.asarray(frame["patient_id"].where(frame["patient_id"] != "", own), dtype=object)

    def has_truth(self, name: str) -> Booleans:
        """Return (N,): whether the truth of a class is known, per image."""
        if self.kind == "multilabel":
            return self.frame[f"y_{name}"].notna().to_numpy(dtype=bool)
        return np.ones(len(self.frame), dtype=bool)

    def truth(self, name: str) -> Booleans:
        """Return (N,): whether an image has a class; False where it is unknown."""
        if self.kind == "multilabel":
            return np.asarray(self.frame[f"y_{name}"] == 1, dtype=bool)
        positive = 1 if self.kind == "binary" else self.classes.index(name)
        return np.asarray(self.frame["y"] == positive, dtype=bool)

    def probability(self, name: str) -> Floats:
        """Return (N,): the probability of a class, in [0, 1]."""
        return self.frame[f"prob_{name}"].to_numpy(dtype=np.float64)

    def score(self, name: str) -> Floats:
        """Return (N,): log odds of a class, which don't saturate; without logits, probabilities."""
        if f"logit_{name}" not in self.frame:
            return self.probability(name)
        if self.kind != "multiclass":
            return self.frame[f"logit_{name}"].to_numpy(dtype=np.float64)
        logits = self.logits()
        index = self.classes.index(name)
        return np.asarray(logits[:, index] - logsumexp(np.delete(logits, index, axis=1), axis=1))

    def logits(self) -> Floats:
        """Return (N, C): the logits, in the order of the classes.

        Raises
        ------
        PredictionsError
            If the table has none.
        """
        names = [f"logit_{name}" for name in self.classes]
        if missing := [name for name in names if name not in self.frame]:
            raise PredictionsError(f"The predictions lack {missing[0]}; predict again with this version.")
        return self.frame[names].to_numpy(dtype=np.float64)

    def said(self, name: str, threshold: float | None) -> Booleans | None:
        """Return (N,): whether the model says a class; multiclass: it has the largest probability, else by threshold.

        Returns
        -------
        NDArray or None
            None without a threshold, where one is needed.
        """
        if self.kind == "multiclass":
            probabilities = np.column_stack([self.probability(each) for each in self.classes])
            return np.asarray(probabilities.argmax(axis=1) == self.classes.index(name), dtype=bool)
        return None if threshold is None else np.asarray(self.probability(name) >= threshold, dtype=bool)

    def attributes(self) -> dict[str, list[str]]:
        """Return attributes of subgroups, each with (N,) values: sex, age band, view, site, manufacturer, source."""
        bands = [age_band(None if np.isnan(age) else float(age)) for age in self.frame["age"]]
        texts = {name: self.frame[name].tolist() for name in ("sex", "view", "site", "manufacturer", "source")}
        return {"sex": texts.pop("sex"), "age": bands, **texts}


def tabulate(
    cases: pd.DataFrame,
    classes: Sequence[str],
    *,
    logits: ArrayLike,
    probabilities: ArrayLike,
    truth: ArrayLike,
) -> Predictions:
    """Make the table from a manifest's rows and a model's outputs.

    Parameters
    ----------
    cases
        N rows of a manifest.
    classes
        C names, in the order of the outputs.
    logits, probabilities
        (N, C).
    truth
        (N,): ``y``; or, multi-label, (N, C) of 1, 0, and NaN or -1 for unknown.

    Raises
    ------
    PredictionsError
        If the shapes or values do not fit together.
    """
    raw, scores, truths = (np.asarray(each, dtype=np.float64) for each in (logits, probabilities, truth))
    shape = (len(cases), len(classes))
    if raw.shape != shape or scores.shape != shape or truths.shape not in (shape, shape[:1]):
        raise PredictionsError(
            f"{shape[0]} cases and {shape[1]} classes need logits and probabilities of shape {shape}; got {raw.shape}, "
            f"{scores.shape} and truths {truths.shape}."
        )
    table = pd.DataFrame({name: cases[name].to_numpy() for name in COLUMNS if name in cases})
    table["y"] = truths if truths.ndim == 1 else 0
    for index, name in enumerate(classes):
        if truths.ndim == 2:
            table[f"y_{name}"] = np.where(truths[:, index] == -1, np.nan, truths[:, index])
        table[f"logit_{name}"], table[f"prob_{name}"] = raw[:, index], scores[:, index]
    return check(table)


def read_predictions(path: Path) -> Predictions:
    """Read and check a predictions file.

    Raises
    ------
    PredictionsError
        If it can't be read, or a value is not accepted; the message names line and column.
    """
    try:
        frame = pd.read_csv(
            path,
            dtype=dict.fromkeys(TEXTS, str),
            keep_default_na=False,
            na_values=_numbers_na(path),
            encoding="utf-8",
        )
    except (OSError, UnicodeError, ValueError) as error:
        raise PredictionsError(
            f"The predictions {path.name} can't be read ({type(error).__name__}); accepted is the CSV file that "
            "`cxr train evaluate` and the training runs write."
        ) from error
    return check(frame, row_name=lambda row: f"line {line_of(path, row)} of the predictions")


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write the table; see ``training.files.whole_file``.

    The file is readable by its owner alone: it holds patients' identifiers. Numbers have nine digits,
    which restore a float32 exactly.

    Raises
    ------
    PredictionsError
        If it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, predictions.frame.to_csv(index=False, float_format="%.9g", lineterminator="\n"), private=True)
    except OSError as error:
        raise PredictionsError(
            f"The predictions {path.name} can't be written ({type(error).__name__}); choose a folder that you may "
            "write to, with space left."
        ) from error


def check(frame: pd.DataFrame, *, row_name: RowName = _row) -> Predictions:
    """Check a table and determine the kind of its model.

    Parameters
    ----------
    frame
        See the module; missing columns of text are taken as empty.
    row_name
        From a row, counted from 0, to its name in messages.

    Raises
    ------
    PredictionsError
        If a column is missing or a value is not accepted.
    """
    names = [str(name) for name in frame.columns]
    if missing := [name for name in REQUIRED if name not in names]:
        raise PredictionsError(f"The predictions lack the column {missing[0]}; accepted are {', '.join(COLUMNS)}.")
    classes = tuple(name.removeprefix("prob_") for name in names if name.startswith("prob_"))
    if not classes:
        raise PredictionsError("The predictions have no column prob_<class>; each class of the model has one.")
    table = frame.reset_index(drop=True).copy()
    for name in TEXTS:
        table[name] = table[name].fillna("").astype(str) if name in table else ""
    table["age"] = _number(table, "age", row_name, optional=True) if "age" in table else np.nan
    for name in classes:
        table[f"prob_{name}"] = _number(table, f"prob_{name}", row_name, low=0, high=1)
        if f"logit_{name}" in table:
            table[f"logit_{name}"] = _number(table, f"logit_{name}", row_name)
        if f"y_{name}" in table:
            table[f"y_{name}"] = _number(table, f"y_{name}", row_name, optional=True)
    kind = _kind(table, classes)
    _check_truths(table, classes, kind, row_name)
    _refuse(table["image_id"] == "", row_name, "image_id is empty; every image has one")
    _refuse(table["image_id"].duplicated(), row_name, "image_id occurs a second time; each image is predicted once")
    predictions = Predictions(table, classes, kind)
    _check_probabilities(predictions, row_name)
    return predictions


def _kind(table: pd.DataFrame, classes: tuple[str, ...]) -> Kind:
    if any(f"y_{name}" in table for name in classes):
        if missing := [name for name in classes if f"y_{name}" not in table]:
            raise PredictionsError(f"The predictions have y_<class> for some classes, and not for {missing[0]}.")
        return "multilabel"
    return "binary" if len(classes) == 1 else "multiclass"


def _check_truths(table: pd.DataFrame, classes: tuple[str, ...], kind: Kind, row_name: RowName) -> None:
    if kind == "multilabel":
        for name in classes:
            values = table[f"y_{name}"]
            _refuse(~(values.isna() | values.isin((0, 1))), row_name, f"y_{name} is not 1, 0 or nothing")
        return
    table["y"] = _number(table, "y", row_name)
    highest = 1 if kind == "binary" else len(classes) - 1
    _refuse(~table["y"].isin(range(highest + 1)), row_name, f"y is not a whole number from 0 to {highest}")
    table["y"] = table["y"].astype("int64")


def _check_probabilities(predictions: Predictions, row_name: RowName) -> None:
    probabilities = np.column_stack([predictions.probability(name) for name in predictions.classes])
    if predictions.kind == "multiclass":
        sums = pd.Series(probabilities.sum(axis=1))
        _refuse((sums - 1).abs() > TOLERANCE, row_name, "the probabilities of the classes do not add up to 1")
    if all(f"logit_{name}" in predictions.frame for name in predictions.classes):
        expected = (
            softmax_rows(predictions.logits()) if predictions.kind == "multiclass" else sigmoid(predictions.logits())
        )
        differs = pd.Series((np.abs(probabilities - expected) > TOLERANCE).any(axis=1))
        _refuse(differs, row_name, "a probability is not what its logit stands for (sigmoid, or softmax)")


def _number(
    table: pd.DataFrame,
    name: str,
    row_name: RowName,
    *,
    optional: bool = False,
    low: float = -np.inf,
    high: float = np.inf,
) -> pd.Series:
    values = table[name].replace("", np.nan)
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    is_wrong = (numbers.isna() & (values.notna() | (not optional))) | np.isinf(numbers)
    _refuse(is_wrong, row_name, f"{name} is not a number{', or nothing' if optional else ''}")
    _refuse((numbers < low) | (numbers > high), row_name, f"{name} is not within {low:g} to {high:g}")
    return numbers


def _refuse(is_wrong: pd.Series, row_name: RowName, fault: str) -> None:
    if is_wrong.any():
        first = int(is_wrong.to_numpy(dtype=bool).argmax())
        more = int(is_wrong.sum()) - 1
        raise PredictionsError(f"In {row_name(first)}, {fault}{f' (and {more} more)' if more else ''}.")


def _numbers_na(path: Path) -> dict[str, list[str]]:
    """Return the text of missing values per column of numbers; columns of text have none: a source may be ``NA``."""
    with path.open(encoding="utf-8") as stream:
        names = stream.readline().strip().split(",")
    return {name: [""] for name in names if name not in TEXTS}
