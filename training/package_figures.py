"""The figures that travel inside a model package, and that promotion judges it by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.figures import ClassEvaluation, Evaluation
from training.metrics.interval import Estimate


def package_figures(evaluation: Evaluation, audit: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the figures that travel inside the model package and that promotion judges.

    Parameters
    ----------
    evaluation
        Over the test images.
    audit
        Further figures, e.g. ``blanked_lung_auc`` and ``patients_disjoint``; they are added as they are.

    Returns
    -------
    dict
        Plain JSON values. ``classes`` has for each class ``auc``, ``auc_low``, ``auc_high``, ``ece``,
        ``sensitivity``, ``specificity``, ``within_source_auc``, ``source_only_auc``,
        ``metadata_only_auc`` and ``worst_subgroup`` (``attribute``, ``value``, ``auc``); None where a
        figure does not exist.
    """
    return {
        "dataset": evaluation.dataset,
        "images": evaluation.images,
        "patients": evaluation.patients,
        "is_image_wise": evaluation.is_image_wise,
        "classes": {each.name: _figures_of(each) for each in evaluation.classes},
        "cautions": [{"code": each.code, "sentence": each.sentence} for each in evaluation.cautions],
        **dict(audit or {}),
    }


def _figures_of(figures: ClassEvaluation) -> dict[str, Any]:
    interval = None if figures.auc is None else figures.auc.interval
    at, calibration = figures.at_threshold, figures.calibration
    baselines = {f"{each.name}_auc": _value(each.auc) for each in figures.baselines}
    judged = [each for each in figures.subgroups if each.auc is not None and not each.is_small]
    worst = min(judged, key=lambda each: each.auc.value if each.auc else 1.0, default=None)
    return {
        "images": figures.images,
        "positives": figures.positives,
        "auc": _value(figures.auc),
        "auc_low": None if interval is None else round(interval.low, 6),
        "auc_high": None if interval is None else round(interval.high, 6),
        "average_precision": _value(figures.average_precision),
        "ece": None if calibration is None else round(calibration.ece, 6),
        "threshold": None if at is None else round(at.threshold, 6),
        "sensitivity": None if at is None else _value(at.sensitivity),
        "specificity": None if at is None else _value(at.specificity),
        "within_source_auc": _value(figures.within_source.auc),
        **baselines,
        "worst_subgroup": None
        if worst is None
        else {"attribute": worst.attribute, "value": worst.value, "auc": _value(worst.auc)},
    }


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else round(estimate.value, 6)
