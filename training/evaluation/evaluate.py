"""Compute all figures of a model from its predictions, without the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cxr.errors import PredictionsError
from training.evaluation.baselines import metadata_only, source_only
from training.evaluation.cautions import cautions_of
from training.evaluation.predictions import Booleans, Floats, Predictions
from training.evaluation.results import ClassEvaluation, Evaluation, WithinSource
from training.files import sha256_of, to_document, write_document
from training.metrics import bootstrap
from training.metrics.auc import roc_auc_with_interval
from training.metrics.calibration import calibration_figures
from training.metrics.curves import average_precision
from training.metrics.decision_curve import decision_curve
from training.metrics.interval import CONFIDENCE, Estimate, Interval
from training.metrics.multiclass import ClassificationReport, classification_report
from training.metrics.operating_point import AtThreshold, evaluate_at
from training.metrics.stratified import stratified_auc
from training.metrics.subgroups import subgroup_table

METRICS_FILE = "metrics.json"
PREVALENCES = (0.05,)
"""Stated prevalences of the predictive values: 4.8 % of the films of a prospective study had COVID-19."""


def evaluate(
    predictions: Predictions,
    *,
    thresholds: Mapping[str, float] | None = None,
    dataset: str = "test",
    prevalences: Sequence[float] = PREVALENCES,
    replicates: int = bootstrap.REPLICATES,
    seed: int = 0,
) -> Evaluation:
    """Return every figure of one model over one set of images.

    Parameters
    ----------
    predictions
        Of images that were not used to train, select or calibrate.
    thresholds
        Operating point of each class, in probability, chosen on other images; a class without one
        has no sensitivity.
    dataset
        Description of these images.
    prevalences
        At which predictive values are stated, each between 0 and 1.
    replicates
        Draws of the patient bootstrap.
    seed
        Of the draws and folds: figures depend on predictions and seed alone.

    Raises
    ------
    ValueError
        If a prevalence is none, or a threshold is of no class.
    """
    points = dict(thresholds or {})
    if unknown := sorted(set(points) - set(predictions.classes)):
        raise ValueError(f"thresholds are of {', '.join(predictions.classes)}; got {', '.join(unknown)}")
    classes = tuple(
        _ClassFigures(predictions, name, points.get(name), tuple(prevalences)).evaluate(replicates, seed)
        for name in predictions.classes
    )
    areas = [each.auc.value for each in classes if each.auc is not None]
    return Evaluation(
        dataset=dataset,
        kind=predictions.kind,
        images=len(predictions),
        patients=None if predictions.is_image_wise else int(np.unique(predictions.patients).size),
        is_image_wise=predictions.is_image_wise,
        classes=classes,
        report=_report(predictions, points),
        macro_auc=float(np.mean(areas)) if len(areas) == len(classes) else None,
        cautions=cautions_of(classes, is_image_wise=predictions.is_image_wise),
        confidence=CONFIDENCE,
        replicates=replicates,
        seed=seed,
    )


def write_evaluation(evaluation: Evaluation, folder: Path, *, of_file: Path | None = None) -> Path:
    """Write ``metrics.json`` into a folder, which is made where it is absent; return its path.

    Parameters
    ----------
    evaluation
        The figures.
    folder
        The folder.
    of_file
        The predictions; their name and SHA-256 are written too.
    """
    path = folder / METRICS_FILE
    named = {} if of_file is None else {"predictions": {"file": of_file.name, "sha256": sha256_of(of_file)}}
    write_document({**to_document(evaluation), **named}, path)
    return path


def refuse_other_evaluation(folder: Path, file: Path, *, is_own: bool) -> None:
    """Refuse a folder that holds the figures of other predictions.

    Parameters
    ----------
    folder
        To write to; it may be absent.
    file
        The predictions.
    is_own
        Whether the folder is the file's own: figures of an earlier file of its name are then replaced.

    Raises
    ------
    PredictionsError
        If it does.
    """
    try:
        named = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))["predictions"]
        is_other = named["file"] != file.name or (not is_own and named["sha256"] != sha256_of(file))
    except (OSError, ValueError, KeyError, TypeError):
        return  # no figures, or of a version that names no predictions
    if is_other:
        raise PredictionsError(
            f"The folder {folder.name!r} holds the figures of other predictions ({named['file']}): name another folder "
            "with --output, or remove that one."
        )


class _ClassFigures:
    """One class against the rest, over the images whose truth is known."""

    def __init__(
        self, predictions: Predictions, name: str, threshold: float | None, prevalences: tuple[float, ...]
    ) -> None:
        has_truth = predictions.has_truth(name)
        self._name, self._threshold, self._prevalences = name, threshold, prevalences
        self._frame = predictions.frame[has_truth].reset_index(drop=True)
        self._truth: Booleans = predictions.truth(name)[has_truth]
        self._score: Floats = predictions.score(name)[has_truth]
        self._probability: Floats = predictions.probability(name)[has_truth]
        self._patients = predictions.patients[has_truth]
        self._attributes = {
            attribute: list(np.array(values, dtype=object)[has_truth])
            for attribute, values in predictions.attributes().items()
        }

    def evaluate(self, replicates: int, seed: int) -> ClassEvaluation:
        truth, patients = self._truth, self._patients
        auc = roc_auc_with_interval(truth, self._score, patients)
        precision = average_precision(truth, self._score)
        at = self._at_threshold()
        intervals = self._bootstrap(auc, precision, at, replicates, seed)
        return ClassEvaluation(
            name=self._name,
            images=int(truth.size),
            positives=int(truth.sum()),
            patients=int(np.unique(patients).size),
            prevalence=float(truth.mean()) if truth.size else None,
            auc=auc,
            auc_bootstrap=intervals.get("auc"),
            average_precision=None if precision is None else Estimate(precision, intervals.get("average_precision")),
            at_threshold=at,
            sensitivity_bootstrap=intervals.get("sensitivity"),
            specificity_bootstrap=intervals.get("specificity"),
            calibration=calibration_figures(truth, self._probability),
            decision_curve=decision_curve(truth, self._probability),
            within_source=self._within_source(),
            baselines=tuple(
                predict(self._frame, truth, patients, seed=seed) for predict in (source_only, metadata_only)
            ),
            subgroups=subgroup_table(
                truth,
                self._score,
                self._attributes,
                patients,
                threshold=self._threshold,
                alarm_score=self._probability,
            ),
        )

    def _at_threshold(self) -> AtThreshold | None:
        if self._threshold is None:
            return None
        return evaluate_at(self._truth, self._probability, self._threshold, prevalences=self._prevalences)

    def _bootstrap(
        self, auc: Estimate | None, precision: float | None, at: AtThreshold | None, replicates: int, seed: int
    ) -> dict[str, Interval]:
        statistics: dict[str, bootstrap.Statistic] = {}
        estimates: dict[str, float] = {}
        if auc is not None and precision is not None:
            statistics["auc"] = bootstrap.area_under_roc(self._truth, self._score)
            statistics["average_precision"] = bootstrap.precision_average(self._truth, self._score)
            estimates |= {"auc": auc.value, "average_precision": precision}
        if at is not None:
            alarms = self._probability >= at.threshold
            for name, right, among, estimate in (
                ("sensitivity", alarms, self._truth, at.sensitivity),
                ("specificity", ~alarms, ~self._truth, at.specificity),
            ):
                if estimate is not None:
                    statistics[name] = bootstrap.share(right, among)
                    estimates[name] = estimate.value
        return bootstrap.patient_bootstrap(
            statistics, self._patients, self._truth.size, replicates=replicates, seed=seed, estimates=estimates
        )

    def _within_source(self) -> WithinSource:
        truth, sources = self._truth, self._frame["source"].to_numpy(dtype=object)
        pairs = {
            source: int(truth[sources == source].sum()) * int((~truth[sources == source]).sum())
            for source in set(sources)
        }
        total = int(truth.sum()) * int((~truth).sum())
        return WithinSource(
            auc=stratified_auc(truth, self._score, sources, self._patients),
            sources=sum(count > 0 for count in pairs.values()),
            share_of_pairs=sum(pairs.values()) / total if total else 0.0,
        )


def _report(predictions: Predictions, points: Mapping[str, float]) -> ClassificationReport | None:
    if predictions.kind == "multilabel":
        return None
    probabilities = np.column_stack([predictions.probability(name) for name in predictions.classes])
    if predictions.kind == "multiclass":
        return classification_report(predictions.frame["y"], probabilities.argmax(axis=1), predictions.classes)
    name = predictions.classes[0]
    if name not in points:
        return None
    predicted = (probabilities[:, 0] >= points[name]).astype(int)
    return classification_report(predictions.frame["y"], predicted, (f"not {name}", name))
