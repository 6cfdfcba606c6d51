"""Figures of a model package, on which the gates of promotion decide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cxr.errors import SplitError
from training.audit.dataset import audit
from training.audit.file_forms import read_forms
from training.audit.report import AUDIT_FILE, read_audit
from training.cases import assert_disjoint
from training.evaluation import ClassEvaluation, Evaluation
from training.metrics.interval import Estimate
from training.runs.folder import Run
from training.runs.lineage import count_seen


def package_figures(evaluation: Evaluation, audit: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the figures of the package's manifest, for the gates of promotion.

    Parameters
    ----------
    evaluation
        Over the test images.
    audit
        Further figures, e.g. ``blanked_lung_auc`` and ``patients_disjoint``, added unchanged.

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
        "classes": {each.name: _figures_of(evaluation, each) for each in evaluation.classes},
        "cautions": [{"code": each.code, "sentence": each.sentence} for each in evaluation.cautions],
        **dict(audit or {}),
    }


def _figures_of(evaluation: Evaluation, figures: ClassEvaluation) -> dict[str, Any]:
    interval = None if figures.auc is None else figures.auc.interval
    at, calibration = figures.at_threshold, figures.calibration
    baselines = {f"{each.name}_auc": _value(each.auc) for each in figures.baselines}
    subgroups = [each for each in figures.subgroups if each.auc is not None and not each.is_small]
    worst = min(subgroups, key=lambda each: each.auc.value if each.auc else 1.0, default=None)
    return {
        "images": figures.images,
        "positives": figures.positives,
        "auc": _value(figures.auc),
        "auc_low": None if interval is None else round(interval.low, 6),
        "auc_high": None if interval is None else round(interval.high, 6),
        "average_precision": _value(figures.average_precision),
        "ece": None if calibration is None else round(calibration.ece, 6),
        "threshold": None if at is None else round(at.threshold, 6),
        "sensitivity": _value(evaluation.sensitivity(figures.name)),
        "specificity": _value(evaluation.specificity(figures.name)),
        "within_source_auc": _value(figures.within_source.auc),
        **baselines,
        "worst_subgroup": None
        if worst is None
        else {"attribute": worst.attribute, "value": worst.value, "auc": _value(worst.auc)},
    }


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else round(estimate.value, 6)


def case_figures(run: Run) -> dict[str, Any]:
    """Return figures of the run's cases: whether patients are disjoint, and baselines of the labels without an image.

    Patients of the test are disjoint from those of training and validation of this run and of every
    run that it starts from.

    Baselines are read from the run's ``audit.json``; a missing one is made, without the search for
    copies of files, and written.
    """
    cases = run.manifest()
    if not (run.folder / AUDIT_FILE).exists():
        forms = read_forms([Path(path) for path in cases["path"]])
        audit(cases, forms=forms, seed=run.recipe.seed).to_json(run.folder / AUDIT_FILE)
    test = cases[cases["split"] == "test"]
    report = read_audit(run.folder / AUDIT_FILE)
    return {
        "patients_disjoint": _is_disjoint(cases) and count_seen(run)["test"] == 0,
        "labels": {each["label"]: _baselines(each) for each in report["label_audits"]},
    } | ({"is_image_wise": True} if (test["image_wise"] == "yes").any() else {})


def _is_disjoint(cases: pd.DataFrame) -> bool:
    try:
        assert_disjoint(cases)
    except SplitError:
        return False
    return True


def _baselines(label: Mapping[str, Any]) -> dict[str, float | None]:
    return {
        f"{each['name']}_auc": None if each["auc"] is None else round(each["auc"]["value"], 6)
        for each in label["baselines"]
    }
