"""Evaluation of predictions: figures, operating points, comparisons, cautions."""

from __future__ import annotations

from training.evaluation.baselines import Baseline, metadata_only, source_only
from training.evaluation.compare import Comparison
from training.evaluation.doubtful_labels import SUSPECTS_FILE, find_suspects, write_suspects
from training.evaluation.evaluate import write_evaluation
from training.evaluation.operating_points import (
    OPERATING_POINT_FILE,
    ClassThreshold,
    OperatingPoints,
    choose_operating_points,
    read_operating_points,
    write_operating_points,
)
from training.evaluation.predictions import Predictions, read_predictions, tabulate, write_predictions
from training.evaluation.results import Caution, ClassEvaluation, Evaluation

__all__ = [
    "OPERATING_POINT_FILE",
    "SUSPECTS_FILE",
    "Baseline",
    "Caution",
    "ClassEvaluation",
    "ClassThreshold",
    "Comparison",
    "Evaluation",
    "OperatingPoints",
    "Predictions",
    "choose_operating_points",
    "find_suspects",
    "metadata_only",
    "read_operating_points",
    "read_predictions",
    "source_only",
    "tabulate",
    "write_evaluation",
    "write_operating_points",
    "write_predictions",
    "write_suspects",
]
