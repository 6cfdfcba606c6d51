"""The operating points of a run: chosen on validation predictions, frozen in ``operating_point.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxr.errors import PredictionsError
from training.evaluation.predictions import Predictions
from training.files import write_whole
from training.metrics.operating_point import Rule, choose_threshold, threshold_interval

OPERATING_POINT_FILE = "operating_point.json"


class ClassThreshold(BaseModel):
    """The threshold of one class, in probability."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(ge=0, le=1)
    low: float | None = None  # bootstrap interval over the validation patients
    high: float | None = None


class OperatingPoints(BaseModel):
    """The content of ``operating_point.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str
    chosen_on: str  # description of the data; never test images
    images: int
    prevalence: dict[str, float]
    classes: dict[str, ClassThreshold]

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Class to threshold, for classes that have one."""
        return {name: each.threshold for name, each in self.classes.items()}


def choose_operating_points(
    validation: Predictions,
    *,
    chosen_on: str = "the validation images",
    rule: Rule = "sensitivity",
    target: float = 0.90,
    seed: int = 0,
) -> OperatingPoints:
    """Choose each class's threshold on validation predictions.

    Parameters
    ----------
    validation
        Of images that are neither trained on nor tested on.
    chosen_on
        Description of the data.
    rule, target
        See ``training.metrics.operating_point.choose_threshold``.
    seed
        Of the bootstrap draws.

    Raises
    ------
    PredictionsError
        If no class has both positive and negative images.
    """
    classes, prevalence, rule_text = {}, {}, ""
    for name in validation.classes:
        has_truth = validation.has_truth(name)
        truth, probability = validation.truth(name)[has_truth], validation.probability(name)[has_truth]
        choice = choose_threshold(truth, probability, rule=rule, target=target)
        if choice is None:
            continue
        interval = threshold_interval(
            truth, probability, validation.patients[has_truth], rule=rule, target=target, seed=seed
        )
        classes[name] = ClassThreshold(
            threshold=min(1.0, choice.threshold),
            low=None if interval is None else interval.low,
            high=None if interval is None else min(1.0, interval.high),
        )
        prevalence[name] = float(truth.mean())
        rule_text = choice.rule
    if not classes:
        raise PredictionsError(
            "No operating point can be chosen: the validation images hold one class only; split the cases anew "
            "(`cxr train split`)."
        )
    return OperatingPoints(
        rule=rule_text, chosen_on=chosen_on, images=len(validation), prevalence=prevalence, classes=classes
    )


def write_operating_points(points: OperatingPoints, path: Path) -> None:
    """Write ``operating_point.json``."""
    write_whole(path, points.model_dump_json(indent=2) + "\n")


def read_operating_points(path: Path) -> OperatingPoints:
    """Read ``operating_point.json``.

    Raises
    ------
    PredictionsError
        If it is missing or of another form.
    """
    try:
        return OperatingPoints.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise PredictionsError(
            f"The operating points in {path.name} can't be read ({type(error).__name__}); the training run writes that "
            "file, and --threshold CLASS=VALUE does without."
        ) from error
