"""What a report says about itself in plain words, by what the model package is worth.

ASCII throughout, so that the character set of any source can carry it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cxr import product
from cxr.domain import PackageStatus, ScoredImage
from cxr.package import MODEL_FILE, PackageManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The sentences and descriptions of one status."""

    notice: str  # the notice in full, in front of everything else
    prefix: str  # of series descriptions and names; empty for an evaluated package
    completion: str  # Completion Flag Description (0040,A492); LO, at most 64 characters
    status: str  # what the algorithm parameter `status` says


_WORDS = {
    PackageStatus.EVALUATED: Words(
        notice=product.NOTICE_SENTENCE,
        prefix="",
        completion="Research algorithm output only, not a clinical report",
        status="evaluated for research",
    ),
    PackageStatus.UNTRAINED: Words(
        notice=f"{product.UNTRAINED}. {product.NOTICE_SENTENCE}",
        prefix="UNTRAINED MODEL - ",
        completion="UNTRAINED MODEL, research output only, not a clinical report",
        status=product.UNTRAINED,
    ),
    PackageStatus.DEMONSTRATION: Words(
        notice=f"{product.DEMONSTRATION}. {product.NOTICE_SENTENCE}",
        prefix="DEMONSTRATION MODEL - ",
        completion="DEMONSTRATION MODEL, research output, not a clinical report",
        status=product.DEMONSTRATION,
    ),
}


def words_for(status: PackageStatus) -> Words:
    """Say what results of such a package say.

    Parameters
    ----------
    status
        What the package's scores are worth.
    """
    return _WORDS[status]


def algorithm_parameters(scored: ScoredImage, package: PackageManifest) -> tuple[str, ...]:
    """Say how the scores came about, one ``key=value`` each (TID 4019 row 3).

    Parameters
    ----------
    scored
        The scores, and what the quality checks of the image found.
    package
        The model package they come from.
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
        # Of the picture that may come with the report; an exact map needs no word.
        *(() if package.outputs.evidence else ("explanation=Grad-CAM (approximation; no exact evidence map)",)),
        f"status={words_for(scored.status).status}",
    ]
    if scored.warnings:
        parameters.append(f"quality_warnings={','.join(scored.warnings)}")
    return tuple(parameters)
