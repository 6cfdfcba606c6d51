"""Texts of reports that depend on the status of the model package.

ASCII throughout, so that every Specific Character Set of a source can encode them.
"""

from __future__ import annotations

from dataclasses import dataclass

from cxr import product
from cxr.domain import PackageStatus, ScoredImage
from cxr.package import MODEL_FILE, PackageManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusWording:
    """Texts for one status."""

    notice: str  # full notice, first in the report
    prefix: str  # prefix of series descriptions and names; empty for an evaluated package
    completion: str  # Completion Flag Description (0040,A492); LO, at most 64 characters
    status: str  # value of the algorithm parameter `status`


_WORDINGS = {
    PackageStatus.EVALUATED: StatusWording(
        notice=product.NOTICE_SENTENCE,
        prefix="",
        completion="Research algorithm output only, not a clinical report",
        status="evaluated for research",
    ),
    PackageStatus.UNTRAINED: StatusWording(
        notice=f"{product.UNTRAINED}. {product.NOTICE_SENTENCE}",
        prefix="UNTRAINED MODEL - ",
        completion="UNTRAINED MODEL, research output only, not a clinical report",
        status=product.UNTRAINED,
    ),
    PackageStatus.DEMONSTRATION: StatusWording(
        notice=f"{product.DEMONSTRATION}. {product.NOTICE_SENTENCE}",
        prefix="DEMONSTRATION MODEL - ",
        completion="DEMONSTRATION MODEL, research output, not a clinical report",
        status=product.DEMONSTRATION,
    ),
}


GROUP_COMMENT = (
    "This group is present because every output of the model has one, whatever its score. It does not mean that the "
    "finding is present."
)
"""Comment of every measurement group."""


def wording_for(status: PackageStatus) -> StatusWording:
    """Return the texts for a package status."""
    return _WORDINGS[status]


def algorithm_parameters(scored: ScoredImage, package: PackageManifest) -> tuple[str, ...]:
    """Return the algorithm parameters, one ``key=value`` string each (TID 4019 row 3).

    Parameters
    ----------
    scored
        Scores and quality warnings of the image.
    package
        Manifest of the model package.
    """
    calibration = "calibrated" if package.calibrated else "uncalibrated"
    points = [f"{score.finding}:{score.threshold:.6g}" for score in scored.scores if score.threshold is not None]
    parameters = [
        f"fingerprint={scored.fingerprint}",
        f"model_sha256={package.files.get(MODEL_FILE, 'unknown')}",
        f"classes={','.join(item.finding for item in package.classes)}",
        f"preprocessing={package.recipe.digest}",
        f"activation={package.activation} ({calibration})",
        f"operating_point={','.join(points) or 'none'}",
        # Method of the optional evidence map, if it is an approximation.
        *(() if package.outputs.evidence else ("explanation=Grad-CAM (approximation; no exact evidence map)",)),
        f"status={wording_for(scored.status).status}",
    ]
    if scored.warnings:
        parameters.append(f"quality_warnings={','.join(scored.warnings)}")
    return tuple(parameters)
