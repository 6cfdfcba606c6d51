"""A model's outputs, named: what goes into the database and the report."""

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
    """Name a model's outputs.

    Parameters
    ----------
    probabilities
        Shape (classes,), in [0, 1], in the order of the package's classes.
    package
        The package that was scored with.
    device
        ``cpu`` or ``gpu:N``.
    scored_at
        When.
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
