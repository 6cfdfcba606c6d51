"""Prometheus metrics of the worker: seconds and images by stage, images scored by the shadow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter

Stage = Literal["claim", "decode", "view", "score", "report", "commit", "shadow", "idle"]

STAGES: Final[dict[Stage, str]] = {
    "claim": "jobs taken from the database",
    "decode": "waiting for the processes that decode, and masking lungs",
    "view": "asking the view model",
    "score": "the model itself",
    "report": "building and writing reports",
    "commit": "results into the database",
    "shadow": "scoring the shadow",
    "idle": "nothing to do",
}
"""What the worker's own thread does, in the order in which an image goes through; decoding itself is beside it."""

Outcome = Literal["scored", "missed", "failed"]


@dataclass
class _Spent:
    seconds: float = 0.0
    images: int = field(default=0)


class Stages:
    """What one worker's thread spent its time on; used by that thread alone.

    Parameters
    ----------
    registry
        What serves it; None: nothing does.
    monotonic
        Seconds of a clock that never steps.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._spent = {stage: _Spent() for stage in STAGES}
        self._seconds = Counter("cxr_worker_stage_seconds", "Seconds by stage", ["stage"], registry=registry)
        self._images = Counter("cxr_worker_stage_images", "Images by stage", ["stage"], registry=registry)

    @contextmanager
    def timing(self, stage: Stage, images: int = 0) -> Iterator[None]:
        """Count what happens inside towards a stage, whether it ends well or not.

        Parameters
        ----------
        stage
            One of ``STAGES``.
        images
            How many went through it.
        """
        begun = self._monotonic()
        try:
            yield
        finally:
            seconds = self._monotonic() - begun
            self._spent[stage].seconds += seconds
            self._spent[stage].images += images
            self._seconds.labels(stage).inc(seconds)
            self._images.labels(stage).inc(images)

    def table(self) -> str:
        """Return a table for people: seconds, their share, and milliseconds per image."""
        whole = sum(spent.seconds for spent in self._spent.values()) or 1.0
        lines = [f"{'stage':8} {'seconds':>9} {'share':>6} {'images':>7} {'ms/image':>9}  what"]
        for stage, spent in self._spent.items():
            per_image = f"{1000 * spent.seconds / spent.images:9.1f}" if spent.images else " " * 9
            counts = f"{spent.seconds:9.1f} {spent.seconds / whole:6.1%} {spent.images:7}"
            lines.append(f"{stage:8} {counts} {per_image}  {STAGES[stage]}")
        return "\n".join(lines)


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
