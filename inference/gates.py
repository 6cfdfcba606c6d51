"""The gates between a model package and the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxr.domain import PackageStatus
from cxr.package import ModelPackage

TRAINED = "trained"
EVALUATED = "evaluated"


@dataclass(frozen=True, slots=True)
class GateResult:
    """What one gate says: what was found, against what bar."""

    name: str
    is_passed: bool
    figure: str
    bar: str


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
        their figures are inside.
    """
    manifest = package.manifest
    is_trained = manifest.status is not PackageStatus.UNTRAINED
    gates = [GateResult(TRAINED, is_trained, "trained" if is_trained else "random weights", "trained weights")]
    if manifest.status is PackageStatus.EVALUATED:
        count = len(manifest.evaluation)
        gates.append(GateResult(EVALUATED, count > 0, f"{count} figures in the package", "its evaluation"))
    return gates
