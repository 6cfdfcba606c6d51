"""Prometheus metrics of the worker: time by stage, scores, time until the report, images scored by the shadow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from prometheus_client import CollectorRegistry, Counter, Histogram

from cxr.domain import ScoredImage

_SCORE_BUCKETS: Final = tuple(each / 20 for each in range(1, 21))
_WAIT_BUCKETS_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)

Stage = Literal["claim", "decode", "view", "score", "report", "commit", "shadow", "idle"]

STAGES: Final[dict[Stage, str]] = {
    "claim": "jobs taken from the database",
    "decode": "waiting for the processes that decode, and masking lungs",
    "view": "running the view model",
    "score": "running the model",
    "report": "building and writing reports",
    "commit": "writing results to the database",
    "shadow": "waiting for the shadow's scores",
    "idle": "no job in the queue",
}
"""Stages of the worker's thread, in the order of an image's way; decoding itself runs in other processes."""

Outcome = Literal["scored", "missed", "failed"]


@dataclass
class _StageTotal:
    seconds: float = 0.0
    images: int = field(default=0)


class StageTimes:
    """Time and images by stage of one worker's thread; not thread-safe.

    Parameters
    ----------
    registry
        Prometheus registry that exposes the counters; None: not exposed.
    monotonic
        Monotonic clock, in seconds.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._totals = {stage: _StageTotal() for stage in STAGES}
        self._seconds = Counter("cxr_worker_stage_seconds", "Seconds by stage", ["stage"], registry=registry)
        self._images = Counter("cxr_worker_stage_images", "Images by stage", ["stage"], registry=registry)
        for stage in STAGES:  # exposed from the start, as 0
            self._seconds.labels(stage)
            self._images.labels(stage)

    @contextmanager
    def timing(self, stage: Stage, images: int = 0) -> Iterator[None]:
        """Count the duration of the block towards a stage, also if it raises.

        Parameters
        ----------
        stage
            One of ``STAGES``.
        images
            Number of images in the block.
        """
        start = self._monotonic()
        try:
            yield
        finally:
            seconds = self._monotonic() - start
            self._totals[stage].seconds += seconds
            self._totals[stage].images += images
            self._seconds.labels(stage).inc(seconds)
            self._images.labels(stage).inc(images)

    def table(self) -> str:
        """Return a text table: seconds, share of the total, images, and milliseconds per image."""
        sum_s = sum(total.seconds for total in self._totals.values()) or 1.0
        lines = [f"{'stage':8} {'seconds':>9} {'share':>6} {'images':>7} {'ms/image':>9}  activity"]
        for stage, total in self._totals.items():
            per_image = f"{1000 * total.seconds / total.images:9.1f}" if total.images else " " * 9
            counts = f"{total.seconds:9.1f} {total.seconds / sum_s:6.1%} {total.images:7}"
            lines.append(f"{stage:8} {counts} {per_image}  {STAGES[stage]}")
        return "\n".join(lines)


class ShadowMetrics:
    """Counter of the images of one worker's shadow, exposed by a Prometheus registry."""

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
            ``scored``; ``missed``: the shadow was not loaded; ``failed``: it could not prepare or score them.
        images
            Number of images.
        """
        self._images.labels(outcome).inc(images)


class ResultMetrics:
    """Scores and waiting times of the results, exposed by a Prometheus registry; thread-safe.

    Parameters
    ----------
    registry
        Prometheus registry that exposes them; None: not exposed.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._scores = Histogram(
            "cxr_score",
            "Scores of reported images, from 0 to 1",
            ["finding"],
            buckets=_SCORE_BUCKETS,
            registry=registry,
        )
        self._reported = Histogram(
            "cxr_report_seconds",
            "Time from the receipt of an image to its report",
            buckets=_WAIT_BUCKETS_S,
            registry=registry,
        )
        self._delivered = Histogram(
            "cxr_delivery_seconds",
            "Time from a report to its acceptance by a destination",
            ["destination"],
            buckets=_WAIT_BUCKETS_S,
            registry=registry,
        )

    def count_report(self, scored: ScoredImage, *, wait_s: float) -> None:
        """Count one reported image, ``wait_s`` seconds after its receipt."""
        self._reported.observe(max(0.0, wait_s))
        for score in scored.scores:
            self._scores.labels(score.finding).observe(score.score)

    def count_delivery(self, destination: str, *, wait_s: float) -> None:
        """Count one accepted report, ``wait_s`` seconds after it was written."""
        self._delivered.labels(destination).observe(max(0.0, wait_s))

    def expect_destinations(self, names: Iterable[str]) -> None:
        """Expose destinations from the start, with no delivery yet."""
        for name in names:
            self._delivered.labels(name)


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """All metrics of one worker."""

    stages: StageTimes
    results: ResultMetrics
    shadow: ShadowMetrics

    @classmethod
    def on(cls, registry: CollectorRegistry) -> Self:
        """Create the metrics, exposed by a Prometheus registry."""
        return cls(StageTimes(registry), ResultMetrics(registry), ShadowMetrics(registry))
