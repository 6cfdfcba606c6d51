"""What a worker counts of its shadow, for Prometheus."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Counter

Outcome = Literal["scored", "missed", "failed"]


class ShadowMetrics:
    """The counter of one worker's shadow; ``registry`` is what serves it."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._images = Counter(
            "cxr_shadow_images",
            "Reported images, by whether the shadow scored them too",
            ["outcome"],
            registry=registry,
        )

    def count(self, outcome: Outcome, images: int) -> None:
        """Count images.

        Parameters
        ----------
        outcome
            ``scored``; ``missed``: it was not ready; ``failed``: it failed or could not prepare them.
        images
            How many.
        """
        self._images.labels(outcome).inc(images)
