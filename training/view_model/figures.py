"""Figures of a view model on images left out of its training, and the choice of its threshold."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from cxr.package.view_model import CLASSES, FRONTAL, LATERAL, NOT_A_CHEST, PredictedView, ViewComponent
from training.metrics.interval import Estimate, wilson

ANSWERS: Final = tuple(PredictedView)

FALSE_HOLDS: Final = 0.01
"""Fraction of frontal films that may be held."""


def figures(predictions: pd.DataFrame, component: ViewComponent, *, folds: int) -> dict[str, Any]:
    """Return counts of answers by truth and source.

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
        ``evaluation`` of the package's manifest: ``left_out`` (cross-validation) and ``test``, each with
        ``answers`` (truth, then answer, to number of images; and the number ``held``), ``shares`` and ``by_source``.
    """
    table = predictions.copy()
    probabilities = table[list(CLASSES)].to_numpy().tolist()
    table["answer"] = [component.judge(row).value for row in probabilities]
    table["held"] = [component.is_held(row) for row in probabilities]
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
            "laterals_found": _share(table, LATERAL, (PredictedView.LATERAL,)),
            "laterals_taken_for_frontal": _share(table, LATERAL, (PredictedView.FRONTAL,)),
            "frontals_found": _share(table, FRONTAL, (PredictedView.FRONTAL,)),
            "frontals_stopped": _share(table, FRONTAL, (PredictedView.LATERAL, PredictedView.NOT_A_CHEST)),
            "others_found": _share(table, NOT_A_CHEST, (PredictedView.NOT_A_CHEST,)),
            "others_taken_for_frontal": _share(table, NOT_A_CHEST, (PredictedView.FRONTAL,)),
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


def _share(table: pd.DataFrame, truth: str, answers: tuple[PredictedView, ...]) -> dict[str, float] | None:
    part = table[table["truth"] == truth]
    return _interval(int(part["answer"].isin([each.value for each in answers]).sum()), len(part))


def _interval(count: int, images: int) -> dict[str, float] | None:
    estimate: Estimate | None = wilson(count, images)
    if estimate is None or estimate.interval is None:
        return None
    return {"value": estimate.value, "low": estimate.interval.low, "high": estimate.interval.high}


def frontal_at_least(predictions: pd.DataFrame) -> float:
    """Choose the threshold on the frontal class's probability below which an image is held.

    Parameters
    ----------
    predictions
        Of images left out of training: columns ``truth``, ``left_out`` and one for each class. Rows of
        the ``test`` are not used.

    Returns
    -------
    float
        The quantile ``FALSE_HOLDS`` of the frontal films of the cross-validation, rounded down to
        hundredths; at least 0.5, below which frontal is not the most probable class, and at most the
        default confidence.
    """
    is_frontal = (predictions["truth"] == FRONTAL) & (predictions["left_out"] != "test")
    probabilities = predictions.loc[is_frontal, FRONTAL].to_numpy(np.float64)
    quantile = float(np.quantile(probabilities, FALSE_HOLDS, method="lower")) if len(probabilities) else 0.5
    return float(np.clip(np.floor(quantile * 100) / 100, 0.5, ViewComponent.model_fields["confidence"].default))
