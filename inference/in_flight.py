"""Which jobs a worker holds: two of its threads need to know."""

from __future__ import annotations

import threading
from collections.abc import Iterable


class InFlight:
    """The jobs that this worker holds now; the worker adds and discards, the heartbeat reads."""

    def __init__(self) -> None:
        self._ids: set[int] = set()
        self._lock = threading.Lock()

    def add(self, ids: Iterable[int]) -> None:
        """Hold these jobs."""
        with self._lock:
            self._ids.update(ids)

    def discard(self, ids: Iterable[int]) -> None:
        """These jobs are finished, failed or given back."""
        with self._lock:
            self._ids.difference_update(ids)

    def clear(self) -> None:
        """All were given back."""
        with self._lock:
            self._ids.clear()

    def snapshot(self) -> frozenset[int]:
        """The jobs that are held at this moment."""
        with self._lock:
            return frozenset(self._ids)
