"""Where a worker's time goes: counted by stage, whatever comes of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from inference.worker.metrics import STAGES, StageTimes


def test_seconds_and_images_are_counted_by_stage() -> None:
    ticks: Iterator[float] = iter([0, 2, 10, 13, 20, 21])
    registry = CollectorRegistry()
    stages = StageTimes(registry, monotonic=lambda: next(ticks))
    for images in (4, 6):
        with stages.timing("score", images):
            pass
    with pytest.raises(ValueError, match="broken"), stages.timing("report", 1):
        raise ValueError("broken")
    assert registry.get_sample_value("cxr_worker_stage_seconds_total", {"stage": "score"}) == 5
    assert registry.get_sample_value("cxr_worker_stage_images_total", {"stage": "score"}) == 10
    assert registry.get_sample_value("cxr_worker_stage_seconds_total", {"stage": "report"}) == 1
    lines = {line.split()[0]: line.split() for line in stages.table().splitlines()}
    assert set(lines) == {"stage", *STAGES}
    assert lines["score"][1:5] == ["5.0", "83.3%", "10", "500.0"]
    assert lines["idle"][1:3] == ["0.0", "0.0%"]


def test_worker_that_did_nothing_has_a_table_too() -> None:
    assert "0.0%" in StageTimes().table()
