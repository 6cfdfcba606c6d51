"""What a run makes of a manifest's labels: class of every label, and counts by side."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from cxr.errors import RunError
from cxr.labels import FINDINGS
from training.cases import LABEL_PREFIX, SPLITS
from training.inputs.targets import UNKNOWN, truths_of
from training.recipe import EVERY_OTHER, Task

KNOWN_NEGATIVES: Final = frozenset({"negative"})
"""Labels without a finding that adapters write."""

LEFT_OUT: Final = "left out: "
_SAID: Final[Mapping[float, str]] = {1.0: "1", 0.0: "0", -1.0: "-1 (uncertain)"}


@dataclass(frozen=True, slots=True)
class LabelRow:
    """Images with one label that a run uses in one way."""

    label: str  # of the manifest; a finding's column with its value; empty: none
    meaning: str  # a class, "not <class>", or "left out: <reason>"
    images: tuple[int, int, int]  # of train, val, test


def refuse_unknown_labels(cases: pd.DataFrame, task: Task) -> None:
    """Refuse labels that are no known finding and that the recipe does not name: a misspelt one becomes a negative.

    Parameters
    ----------
    cases
        A manifest.
    task
        Of the recipe. Truths from columns use no label.

    Raises
    ------
    RunError
        With every such label, its number of images, and what to write into the recipe.
    """
    if task.from_columns:
        return
    named = {label for name in task.classes for label in task.labels_of(name)} | set(task.negative)
    known = named | set(task.leave_out or ()) | set(FINDINGS) | KNOWN_NEGATIVES
    counts = cases["label"][cases["view"].isin(task.views)].value_counts()
    unknown = {str(label): int(count) for label, count in counts.items() if label and label not in known}
    if not unknown:
        return
    candidates = sorted(named - {EVERY_OTHER} | set(FINDINGS))
    words = [f"{label} ({count} images{_guess(label, candidates)})" for label, count in unknown.items()]
    first = next(iter(unknown))
    raise RunError(
        f"The manifest has labels that are no known finding and that the recipe does not name: {', '.join(words)}. "
        "Correct them in the manifest (`cxr train index csv --label CLASS=WORD`), or say in the recipe what they are: "
        f'a class (task.labels), a negative (--set \'task.negative=["*", "{first}"]\'), or nothing (--set '
        f"'task.leave_out=[\"{first}\"]')."
    )


def _guess(label: str, candidates: Iterable[str]) -> str:
    near = difflib.get_close_matches(label, list(candidates), n=1, cutoff=0.8)
    return f"; {near[0]} is meant?" if near else ""


def label_table(cases: pd.DataFrame, task: Task, not_usable: Mapping[str, str]) -> tuple[LabelRow, ...]:
    """Return what a run makes of each label.

    Parameters
    ----------
    cases
        A manifest with sides.
    task
        Of the recipe.
    not_usable
        ``image_id`` to reason, for images that can't be prepared or are excluded.

    Returns
    -------
    tuple[LabelRow, ...]
        Classes in their order, then what is left out; every image is in one row, or with truths from columns in
        one row for each class.
    """
    reasons = cases["image_id"].map(lambda name: not_usable.get(name, "")).to_numpy(dtype=object)
    reasons = np.where(cases["view"].isin(task.views), reasons, "view " + cases["view"])
    truths = truths_of(cases, task)
    rows: list[LabelRow] = []
    if task.from_columns:
        for output, name in enumerate(task.classes):
            values = cases[LABEL_PREFIX + name]
            texts = LABEL_PREFIX + name + " = " + values.map(lambda value: _SAID.get(value, "nothing"))
            rows += _count(cases["split"], texts, _meanings(truths[:, output], name, reasons, "not said"))
        return tuple(rows)
    if task.activation == "softmax":
        largest = np.array(task.classes, dtype=object)[truths.argmax(axis=1)]
        unused = np.where(reasons != "", reasons, "no class")
        meanings = np.where((truths == 1).any(axis=1) & (reasons == ""), largest, LEFT_OUT + unused)
        return tuple(_count(cases["split"], cases["label"], meanings))
    return tuple(_count(cases["split"], cases["label"], _meanings(truths[:, 0], task.classes[0], reasons, "no class")))


def _meanings(truths: np.ndarray, name: str, reasons: np.ndarray, unknown: str) -> np.ndarray:
    reasons = np.where((truths == UNKNOWN) & (reasons == ""), unknown, reasons)
    return np.where(reasons != "", LEFT_OUT + reasons.astype(object), np.where(truths == 1, name, f"not {name}"))


def _count(sides: pd.Series, labels: pd.Series, meanings: np.ndarray) -> list[LabelRow]:
    table = pd.DataFrame({"side": sides.to_numpy(), "label": labels.to_numpy(), "meaning": meanings})
    counts = table.groupby(["label", "meaning"])["side"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=list(SPLITS), fill_value=0)
    rows = [
        LabelRow(str(label), str(meaning), (int(train), int(val), int(test)))
        for (label, meaning), train, val, test in counts.itertuples()
    ]
    return sorted(rows, key=lambda row: (row.meaning.startswith(LEFT_OUT), row.meaning, row.label))


def describe(rows: Iterable[LabelRow], side: str) -> str:
    """Return the counts of one side in words: ``covid19 (covid19) 12, normal (not covid19) 30``."""
    place = SPLITS.index(side)
    return ", ".join(
        f"{row.label or 'no label'} ({row.meaning}) {row.images[place]}" for row in rows if row.images[place]
    )
