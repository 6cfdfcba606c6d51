"""Frozen types of an evaluation: the content of ``metrics.json``."""

from __future__ import annotations

from dataclasses import dataclass

from cxr.product import NOTICE
from training.evaluation.baselines import Baseline
from training.metrics.calibration import CalibrationFigures
from training.metrics.decision_curve import DecisionCurve
from training.metrics.interval import Estimate, Interval
from training.metrics.multiclass import ClassificationReport, ClassReport
from training.metrics.operating_point import AtThreshold
from training.metrics.subgroups import Subgroup

FORMAT = 1
"""Of ``metrics.json``."""


@dataclass(frozen=True, slots=True)
class Caution:
    """A reason to distrust a figure: a stable code, and a sentence for people."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WithinSource:
    """The area over pairs of images of one source, where knowledge of the source has no effect."""

    auc: Estimate | None  # None: no source has images with and without the class
    sources: int  # that have both
    share_of_pairs: float  # fraction of all pairs of a positive and a negative image


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassEvaluation:
    """The figures of one class against the rest."""

    name: str
    images: int
    positives: int
    patients: int
    prevalence: float | None
    auc: Estimate | None  # interval by DeLong, or Obuchowski where a patient has several images
    auc_bootstrap: Interval | None
    average_precision: Estimate | None  # interval by patient bootstrap; of random scores: the prevalence
    at_threshold: AtThreshold | None  # None: no operating point
    sensitivity_bootstrap: Interval | None
    specificity_bootstrap: Interval | None
    calibration: CalibrationFigures | None
    decision_curve: DecisionCurve | None
    within_source: WithinSource
    baselines: tuple[Baseline, ...]
    subgroups: tuple[Subgroup, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All figures of one model over one set of images, computed from its predictions alone."""

    dataset: str  # in words
    kind: str  # binary, multiclass or multilabel
    images: int
    patients: int | None  # None: some image's patient is unknown
    is_image_wise: bool
    classes: tuple[ClassEvaluation, ...]
    report: ClassificationReport | None  # multiclass: by the most probable class; binary: at the operating point
    macro_auc: float | None
    cautions: tuple[Caution, ...]
    confidence: float
    replicates: int
    seed: int
    format: int = FORMAT
    notice: str = NOTICE

    def of(self, name: str) -> ClassEvaluation:
        """Return the figures of a class.

        Raises
        ------
        KeyError
            If the model has no such class.
        """
        for each in self.classes:
            if each.name == name:
                return each
        raise KeyError(name)

    def sensitivity(self, name: str) -> Estimate | None:
        """Return a class's sensitivity: by the largest score where classes exclude each other, else at its threshold.

        Raises
        ------
        KeyError
            If the model has no such class.
        """
        at = self.of(name).at_threshold
        if self.kind == "multiclass":
            return next((each.recall for each in self._lines() if each.name == name), None)
        return None if at is None else at.sensitivity

    def specificity(self, name: str) -> Estimate | None:
        """Return the specificity for a class; see ``sensitivity``."""
        at = self.of(name).at_threshold
        if self.kind == "multiclass":
            return next((each.specificity for each in self._lines() if each.name == name), None)
        return None if at is None else at.specificity

    def _lines(self) -> tuple[ClassReport, ...]:
        return () if self.report is None else self.report.classes
