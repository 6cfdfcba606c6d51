"""Promotion gates: requirements that a model package has to meet before it is served.

A gate reads the package alone: the figures under ``evaluation`` of its manifest, and its golden images. A
missing figure fails the gate. docs/model-package.md lists the figures that each gate reads.
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
"""Area under the ROC curve of a classifier at chance."""

_ABSENT = "not in the package"


@dataclass(frozen=True, slots=True)
class GateResult:
    """Result of one gate.

    Parameters
    ----------
    name
        Name of the gate, as ``--accept-gate`` takes it.
    is_passed
        Whether the requirement is met.
    figure
        Figure of the package, in words.
    requirement
        Required figure, in words.
    is_acceptable
        Whether the package may be promoted although the gate fails; False where the service can't prepare images
        as in training.
    """

    name: str
    is_passed: bool
    figure: str
    requirement: str
    is_acceptable: bool = True


@dataclass(frozen=True, slots=True)
class Gates:
    """All gates; ``Registry`` calls them with a package and the one in service.

    Parameters
    ----------
    settings
        The ``gates`` table of the settings: the limits.
    golden_difference
        Scores a package's golden images with the service's preprocessing and returns the largest absolute
        difference from the probabilities in the package.
    """

    settings: GateSettings
    golden_difference: Callable[[ModelPackage], float]

    def __call__(self, package: ModelPackage, active: ModelPackage | None) -> Sequence[GateResult]:
        """Check a package against every gate.

        Parameters
        ----------
        package
            Package to be promoted.
        active
            Package in service; None: none.

        Returns
        -------
        Sequence[GateResult]
            For random weights, and for a package without an evaluation, only the gates on status.
        """
        gates = list(check_status_gates(package, active))
        if package.manifest.status is PackageStatus.UNTRAINED:
            return gates
        if not package.manifest.evaluation:
            return [gate for gate in gates if gate.name != EVALUATED] + [_evaluated(package)]
        return [*gates, *self._check_figures(package), _check_against(package, active), self._check_golden(package)]

    def _check_figures(self, package: ModelPackage) -> Iterator[GateResult]:
        evaluation, settings = package.manifest.evaluation, self.settings
        yield _check_patients(evaluation)
        lows = {name: _number(figures, "auc_low") for name, figures in _classes(package).items()}
        yield _at_least(AUC, lows, settings.auc_low, "lower end of the area's interval")
        errors = {name: _number(figures, "ece") for name, figures in _classes(package).items()}
        yield _at_most(CALIBRATION, errors, settings.ece, "expected calibration error")
        worst = {name: _number(figures, "worst_subgroup", "auc") for name, figures in _classes(package).items()}
        yield _at_least(SUBGROUPS, worst, settings.subgroup_auc, "area in the worst subgroup")
        yield _check_blanked(package, settings.blanked_auc)

    def _check_golden(self, package: ModelPackage) -> GateResult:
        requirement = f"golden images reproduced to {GOLDEN_TOLERANCE:g}"
        if GOLDEN_FILE not in package.manifest.files:
            return GateResult(GOLDEN, False, f"{GOLDEN_FILE} is {_ABSENT}", requirement)
        difference = self.golden_difference(package)
        return GateResult(GOLDEN, difference <= GOLDEN_TOLERANCE, f"off by {difference:.2g}", requirement)


def check_status_gates(package: ModelPackage, active: ModelPackage | None) -> Sequence[GateResult]:
    """Check the gates that need no figures: status and lung mask.

    Parameters
    ----------
    package
        Package to be promoted.
    active
        Package in service; not used.

    Returns
    -------
    Sequence[GateResult]
        ``trained``: the weights are not random. ``evaluated``, for packages of that status: the manifest holds an
        evaluation. ``lung_mask``, for packages that were trained on masked lungs.
    """
    manifest = package.manifest
    is_trained = manifest.status is not PackageStatus.UNTRAINED
    gates = [GateResult(TRAINED, is_trained, "trained" if is_trained else "random weights", "trained weights")]
    if manifest.status is PackageStatus.EVALUATED:
        gates.append(_evaluated(package))
    return [*gates, *_check_mask(package)]


def _check_mask(package: ModelPackage) -> Iterator[GateResult]:
    """Check that the service can mask lungs as training did."""
    component = component_of(package.manifest)
    if component is not None:
        has_model = component.source == "model"
        figure = "its mask model" if has_model else "trained on hand-drawn masks, without a mask model"
        yield GateResult(LUNG_MASK, has_model, figure, "the mask model of its training", is_acceptable=False)


def _evaluated(package: ModelPackage) -> GateResult:
    count = len(package.manifest.evaluation)
    return GateResult(EVALUATED, count > 0, f"{count} figures in the package", "its evaluation")


def _check_patients(evaluation: Mapping[str, Any]) -> GateResult:
    requirement = "no patient on two sides of the split"
    if evaluation.get("is_image_wise") is True:
        return GateResult(PATIENTS, False, "image-wise: patients are unknown", requirement)
    is_disjoint = evaluation.get("patients_disjoint")
    figure = f"patients_disjoint is {_ABSENT}"
    if is_disjoint in (True, False):
        figure = "no patient on two sides" if is_disjoint else "patients on two sides"
    return GateResult(PATIENTS, is_disjoint is True, figure, requirement)


def _check_blanked(package: ModelPackage, most: float) -> GateResult:
    """Check that the model is at chance on images with blanked lungs."""
    blanked = package.manifest.evaluation.get("blanked_lungs")
    failed: list[str] = []
    for name in package.manifest.findings:
        area, low, high = (_number(blanked, name, key) for key in ("auc", "auc_low", "auc_high"))
        is_chance = low is not None and high is not None and low <= CHANCE <= high
        if area is None or not (is_chance or area <= most):
            failed.append(f"{name}: {_ABSENT if area is None else f'{area:.3f}'}")
    requirement = f"area without lungs at most {most:g}, or its interval holds {CHANCE:g}"
    return GateResult(BLANKED, not failed, "; ".join(failed) or "at chance without lungs", requirement)


def _check_against(package: ModelPackage, active: ModelPackage | None) -> GateResult:
    """Check by paired DeLong over the same images; worse means that the whole interval lies below 0."""
    requirement = "not worse than the package in service (paired DeLong over the same images)"
    if active is None or active.manifest.status is PackageStatus.UNTRAINED:
        return GateResult(NOT_WORSE, True, "no trained package in service", requirement)
    weights = active.manifest.files[MODEL_FILE]
    if package.manifest.files[MODEL_FILE] == weights:
        return GateResult(NOT_WORSE, True, "the same weights", requirement)
    compared = package.manifest.evaluation.get("comparisons")
    comparisons = [each for each in compared if _is_with(each, weights)] if isinstance(compared, list) else []
    shared = [name for name in package.manifest.findings if name in active.manifest.findings]
    if not comparisons or not shared:
        figure = "no comparison with it in the package" if shared else "it has other findings"
        return GateResult(NOT_WORSE, False, figure, requirement)
    highs = {name: _number(comparisons[-1], "classes", name, "high") for name in shared}
    failed = [f"{name}: {_ABSENT if high is None else f'worse by at least {-high:.3f}'}"
              for name, high in highs.items() if high is None or high < 0]  # fmt: skip
    return GateResult(NOT_WORSE, not failed, "; ".join(failed) or "not worse", requirement)


def _is_with(comparison: object, weights: str) -> bool:
    return isinstance(comparison, Mapping) and comparison.get("model_sha256") == weights


def _at_least(name: str, figures: Mapping[str, float | None], least: float, quantity: str) -> GateResult:
    is_passed = all(value is not None and value >= least for value in figures.values())
    return GateResult(name, is_passed, _describe(figures, min), f"{quantity} at least {least:g}")


def _at_most(name: str, figures: Mapping[str, float | None], most: float, quantity: str) -> GateResult:
    is_passed = all(value is not None and value <= most for value in figures.values())
    return GateResult(name, is_passed, _describe(figures, max), f"{quantity} at most {most:g}")


def _describe(figures: Mapping[str, float | None], worst: Callable[..., float]) -> str:
    """Name the classes without a figure, or else the class with the worst one."""
    if absent := [name for name, value in figures.items() if value is None]:
        return f"{', '.join(absent)}: {_ABSENT}"
    value = worst(each for each in figures.values() if each is not None)
    name = next(name for name, each in figures.items() if each == value)
    return f"{name}: {value:.3f}"


def _classes(package: ModelPackage) -> Mapping[str, object]:
    """Return the figures of every class of the package; None for a class without figures."""
    classes = package.manifest.evaluation.get("classes")
    figures = classes if isinstance(classes, Mapping) else {}
    return {name: figures.get(name) for name in package.manifest.findings}


def _number(document: object, *keys: str) -> float | None:
    """Look up a finite number in a JSON document by a path of keys; None: absent or not a number."""
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    if isinstance(document, bool) or not isinstance(document, int | float) or not math.isfinite(document):
        return None
    return float(document)
