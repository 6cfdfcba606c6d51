"""Convert the model's probabilities to the record of a scored image, for database and report."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr.domain import Score, ScoredImage

if TYPE_CHECKING:
    from cxr.package import ModelPackage


def scored_image(
    probabilities: NDArray[np.float32],
    package: ModelPackage,
    device: str,
    scored_at: datetime,
    warnings: tuple[str, ...] = (),
) -> ScoredImage:
    """Assign the probabilities of one image to the package's findings.

    Parameters
    ----------
    probabilities
        Shape (classes,), in [0, 1], in the order of the package's classes.
    package
        Package that scored the image.
    device
        ``inference.model.model.Model.device``.
    scored_at
        Time of scoring, aware.
    warnings
        Codes of ``cxr.pixels.quality_checks.WARNINGS``.
    """
    manifest = package.manifest
    return ScoredImage(
        scores=tuple(
            Score(finding=entry.finding, score=float(value), threshold=entry.threshold)
            for entry, value in zip(manifest.classes, probabilities, strict=True)
        ),
        model_name=manifest.name,
        model_version=manifest.version,
        fingerprint=package.fingerprint,
        status=manifest.status,
        scored_at=scored_at,
        device=device,
        warnings=warnings,
    )
