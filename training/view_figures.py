"""Figures of a view model: what it said of images that it was not trained on."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

from cxr.view_model import CLASSES, FRONTAL, LATERAL, NOT_A_CHEST, Seen, ViewComponent
from training.metrics.interval import Estimate
from training.metrics.proportions import wilson

ANSWERS: Final = tuple(Seen)


def figures(predictions: pd.DataFrame, component: ViewComponent, *, folds: int) -> dict[str, Any]:
    """Count answers by truth and source.

    Parameters
    ----------
    predictions
        Columns ``source``, ``truth``, ``left_out`` and one for each class.
    component
        Of the view model.
    folds
        Of the cross-validation.

    Returns
    -------
    dict
        For ``evaluation`` in the package's manifest: ``left_out`` (cross-validation) and ``test``, each
        with ``answers`` (truth, then answer, to images; and how many are ``held``), ``shares`` and ``by_source``.
    """
    table = predictions.copy()
    chances = table[list(CLASSES)].to_numpy().tolist()
    table["answer"] = [component.judge(row).value for row in chances]
    table["held"] = [component.is_held(row) for row in chances]
    is_test = table["left_out"] == "test"
    return {
        "folds": folds,
        "left_out": _figures(table[~is_test]),
        "test": _figures(table[is_test]),
    }


def _figures(table: pd.DataFrame) -> dict[str, Any]:
    return {
        "answers": {truth: _answers(table[table["truth"] == truth]) for truth in CLASSES},
        "shares": {
            "frontals_held": _held(table, FRONTAL),
            "laterals_held": _held(table, LATERAL),
            "others_held": _held(table, NOT_A_CHEST),
            "laterals_found": _share(table, LATERAL, (Seen.LATERAL,)),
            "laterals_taken_for_frontal": _share(table, LATERAL, (Seen.FRONTAL,)),
            "frontals_found": _share(table, FRONTAL, (Seen.FRONTAL,)),
            "frontals_stopped": _share(table, FRONTAL, (Seen.LATERAL, Seen.NOT_A_CHEST)),
            "others_found": _share(table, NOT_A_CHEST, (Seen.NOT_A_CHEST,)),
            "others_taken_for_frontal": _share(table, NOT_A_CHEST, (Seen.FRONTAL,)),
        },
        "by_source": {
            f"{truth}, {source}": _answers(part) for (truth, source), part in table.groupby(["truth", "source"])
        },
    }


def _answers(part: pd.DataFrame) -> dict[str, int]:
    answers = {answer.value: int((part["answer"] == answer.value).sum()) for answer in ANSWERS}
    return answers | {"held": int(part["held"].sum())}


def _held(table: pd.DataFrame, truth: str) -> dict[str, float] | None:
    part = table[table["truth"] == truth]
    return _interval(int(part["held"].sum()), len(part))


def _share(table: pd.DataFrame, truth: str, answers: tuple[Seen, ...]) -> dict[str, float] | None:
    part = table[table["truth"] == truth]
    return _interval(int(part["answer"].isin([each.value for each in answers]).sum()), len(part))


def _interval(count: int, images: int) -> dict[str, float] | None:
    found: Estimate | None = wilson(count, images)
    if found is None or found.interval is None:
        return None
    return {"value": found.value, "low": found.interval.low, "high": found.interval.high}
