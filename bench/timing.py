"""Processor time of a function in this process, which other load of the machine affects little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def processor_ms(function: Callable[[], object], *, repeats: int = 7) -> float:
    """Return the median milliseconds of processor time, after one call that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times) * 1000
