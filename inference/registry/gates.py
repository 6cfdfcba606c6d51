"""The gates between a model package and the service.

They judge by what the package says about itself and by nothing else: the figures under
``evaluation`` of its manifest and its golden images. A figure that is not there is a gate that is
not passed. What each gate reads stands in docs/model-package.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cxr.domain import PackageStatus
from cxr.package import MODEL_FILE, ModelPackage
from cxr.package.golden_images import GOLDEN_FILE, GOLDEN_TOLERANCE
from cxr.package.lung_mask import component_of

if TYPE_CHECKING:
    from config.settings import GateSettings

TRAINED = "trained"
EVALUATED = "evaluated"
PATIENTS = "patients_disjoint"
AUC = "auc"
NOT_WORSE = "not_worse"
CALIBRATION = "calibration"
SUBGROUPS = "subgroups"
BLANKED = "blanked_lungs"
GOLDEN = "golden_images"
LUNG_MASK = "lung_mask"

CHANCE = 0.5
"""The area of a model that knows nothing."""

_ABSENT = "not in the package"


@dataclass(frozen=True, slots=True)
class GateResult:
    """What one gate says: what was found, against what bar.

    ``is_acceptable`` is whether a package may be promoted past it; it is not where serving would show
    the model other images than it knows.
    """

    name: str
    is_passed: bool
    figure: str
    bar: str
    is_acceptable: bool = True


@dataclass(frozen=True, slots=True)
class Gates:
    """Every gate; ``Registry`` calls it with a package and the one in service.

    Parameters
    ----------
    bars
        The settings ``gates``.
    golden_difference
        How far the service's own preprocessing and model are from the probabilities that a package
        holds for its golden images: the largest difference.
    """

    bars: GateSettings
    golden_difference: Callable[[ModelPackage], float]

    def __call__(self, package: ModelPackage, active: ModelPackage | None) -> Sequence[GateResult]:
        """Judge a package.

        Parameters
        ----------
        package
            The package to be promoted.
        active
            The one in service; None: there is none.

        Returns
        -------
        Sequence[GateResult]
            Of random weights, and of a package without any figure, only the gate that says so.
        """
        gates = list(judge_by_status(package, active))
        if package.manifest.status is PackageStatus.UNTRAINED:
            return gates
        if not package.manifest.evaluation:
            return [gate for gate in gates if gate.name != EVALUATED] + [_evaluated(package)]
        return [*gates, *self._judge_figures(package), _judge_against(package, active), self._judge_golden(package)]

    def _judge_figures(self, package: ModelPackage) -> Iterator[GateResult]:
        evaluation, bars = package.manifest.evaluation, self.bars
        yield _judge_patients(evaluation)
        lows = {name: _number(figures, "auc_low") for name, figures in _classes(package).items()}
        yield _at_least(AUC, lows, bars.auc_low, "lower end of the area's interval")
        errors = {name: _number(figures, "ece") for name, figures in _classes(package).items()}
        yield _at_most(CALIBRATION, errors, bars.ece, "expected calibration error")
        worst = {name: _number(figures, "worst_subgroup", "auc") for name, figures in _classes(package).items()}
        yield _at_least(SUBGROUPS, worst, bars.subgroup_auc, "area in the worst subgroup")
        yield _judge_blanked(package, bars.blanked_auc)

    def _judge_golden(self, package: ModelPackage) -> GateResult:
        bar = f"golden images reproduced to {GOLDEN_TOLERANCE:g}"
        if GOLDEN_FILE not in package.manifest.files:
            return GateResult(GOLDEN, False, f"{GOLDEN_FILE} is {_ABSENT}", bar)
        difference = self.golden_difference(package)
        return GateResult(GOLDEN, difference <= GOLDEN_TOLERANCE, f"off by {difference:.2g}", bar)


def judge_by_status(package: ModelPackage, active: ModelPackage | None) -> Sequence[GateResult]:
    """Judge a package by what it says about itself.

    Parameters
    ----------
    package
        The package to be promoted.
    active
        The one in service; not looked at here.

    Returns
    -------
    Sequence[GateResult]
        Gate ``trained``: the weights are not random. Gate ``evaluated``, of packages that claim to be:
        their figures are inside. Gate ``lung_mask``, of packages that see lungs alone.
    """
    manifest = package.manifest
    is_trained = manifest.status is not PackageStatus.UNTRAINED
    gates = [GateResult(TRAINED, is_trained, "trained" if is_trained else "random weights", "trained weights")]
    if manifest.status is PackageStatus.EVALUATED:
        gates.append(_evaluated(package))
    return [*gates, *_judge_mask(package)]


def _judge_mask(package: ModelPackage) -> Iterator[GateResult]:
    """Judge whether serving can show the model what training showed it: not a question of figures."""
    component = component_of(package.manifest)
    if component is not None:
        has_model = component.source == "model"
        figure = "its mask model" if has_model else "trained on drawn masks, without a mask model to find lungs with"
        yield GateResult(LUNG_MASK, has_model, figure, "the mask model that it was trained with", is_acceptable=False)


def _evaluated(package: ModelPackage) -> GateResult:
    count = len(package.manifest.evaluation)
    return GateResult(EVALUATED, count > 0, f"{count} figures in the package", "its evaluation")


def _judge_patients(evaluation: Mapping[str, Any]) -> GateResult:
    bar = "no patient on two sides of the split"
    if evaluation.get("is_image_wise") is True:
        return GateResult(PATIENTS, False, "image-wise: patients are unknown", bar)
    found = evaluation.get("patients_disjoint")
    figure = (
        {True: "no patient on two sides", False: "patients on two sides"}.get(found) if found in (True, False) else None
    )
    return GateResult(PATIENTS, found is True, figure or f"patients_disjoint is {_ABSENT}", bar)


def _judge_blanked(package: ModelPackage, most: float) -> GateResult:
    """Judge what the model makes of images whose lungs are painted over: it should know nothing."""
    blanked = package.manifest.evaluation.get("blanked_lungs")
    failed: list[str] = []
    for name in package.manifest.findings:
        area, low, high = (_number(blanked, name, key) for key in ("auc", "auc_low", "auc_high"))
        is_chance = low is not None and high is not None and low <= CHANCE <= high
        if area is None or not (is_chance or area <= most):
            failed.append(f"{name}: {_ABSENT if area is None else f'{area:.3f}'}")
    bar = f"area without lungs at most {most:g}, or its interval holds {CHANCE:g}"
    return GateResult(BLANKED, not failed, "; ".join(failed) or "nothing is recognised without lungs", bar)


def _judge_against(package: ModelPackage, active: ModelPackage | None) -> GateResult:
    """Judge by paired DeLong over the same images: worse is an interval that lies below 0 altogether."""
    bar = "not worse than the package in service (paired DeLong over the same images)"
    if active is None or active.manifest.status is PackageStatus.UNTRAINED:
        return GateResult(NOT_WORSE, True, "no trained package in service", bar)
    weights = active.manifest.files[MODEL_FILE]
    if package.manifest.files[MODEL_FILE] == weights:
        return GateResult(NOT_WORSE, True, "the same weights", bar)
    compared = package.manifest.evaluation.get("comparisons")
    found = [each for each in compared if _is_with(each, weights)] if isinstance(compared, list) else []
    shared = [name for name in package.manifest.findings if name in active.manifest.findings]
    if not found or not shared:
        figure = "no comparison with it in the package" if shared else "it has other findings"
        return GateResult(NOT_WORSE, False, figure, bar)
    highs = {name: _number(found[-1], "classes", name, "high") for name in shared}
    failed = [f"{name}: {_ABSENT if high is None else f'worse by at least {-high:.3f}'}"
              for name, high in highs.items() if high is None or high < 0]  # fmt: skip
    return GateResult(NOT_WORSE, not failed, "; ".join(failed) or "not worse", bar)


def _is_with(comparison: object, weights: str) -> bool:
    return isinstance(comparison, Mapping) and comparison.get("model_sha256") == weights


def _at_least(name: str, figures: Mapping[str, float | None], least: float, what: str) -> GateResult:
    is_passed = all(value is not None and value >= least for value in figures.values())
    return GateResult(name, is_passed, _describe(figures, min), f"{what} at least {least:g}")


def _at_most(name: str, figures: Mapping[str, float | None], most: float, what: str) -> GateResult:
    is_passed = all(value is not None and value <= most for value in figures.values())
    return GateResult(name, is_passed, _describe(figures, max), f"{what} at most {most:g}")


def _describe(figures: Mapping[str, float | None], worst: Callable[..., float]) -> str:
    """Name the class that decides: one without a figure, or the one with the worst."""
    if absent := [name for name, value in figures.items() if value is None]:
        return f"{', '.join(absent)}: {_ABSENT}"
    value = worst(each for each in figures.values() if each is not None)
    name = next(name for name, each in figures.items() if each == value)
    return f"{name}: {value:.3f}"


def _classes(package: ModelPackage) -> Mapping[str, object]:
    """Return the figures of every class that the package reports, whether they are there or not."""
    found = package.manifest.evaluation.get("classes")
    figures = found if isinstance(found, Mapping) else {}
    return {name: figures.get(name) for name in package.manifest.findings}


def _number(document: object, *keys: str) -> float | None:
    """Follow keys into a JSON document to a finite number; None: there is none."""
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    if isinstance(document, bool) or not isinstance(document, int | float) or not math.isfinite(document):
        return None
    return float(document)
