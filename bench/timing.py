"""Processor time of a function in this process: other programs on the machine count for little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def processor_ms(function: Callable[[], object], *, repeats: int = 7) -> float:
    """Median milliseconds of processor time, after one call that is not counted."""
    function()
    taken = []
    for _ in range(repeats):
        begun = time.process_time()
        function()
        taken.append(time.process_time() - begun)
    return statistics.median(taken) * 1000
