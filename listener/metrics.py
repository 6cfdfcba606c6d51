"""What the listener counts, for Prometheus; without a name of anybody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from config.metrics import serve

_ANSWER_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """Counters and gauges of one listener, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._received = Counter(
            "cxr_received_objects", "C-STORE requests, by what became of them", ["outcome"], registry=self.registry
        )
        self._bytes = Counter(
            "cxr_received_bytes", "Bytes of the data sets that were answered with Success", registry=self.registry
        )
        self._refused = Counter(
            "cxr_refused_associations", "Associations and connections refused", ["reason"], registry=self.registry
        )
        self._answer = Histogram(
            "cxr_store_seconds",
            "From the last byte of a data set to its answer",
            buckets=_ANSWER_BUCKETS_S,
            registry=self.registry,
        )
        self._open = Gauge("cxr_open_associations", "Associations that are open", registry=self.registry)
        self._silent = Gauge("cxr_silent_connections", "Connections without an association", registry=self.registry)
        self._free = Gauge("cxr_spool_free_bytes", "Free space of the spool's disk", registry=self.registry)

    def watch(
        self, *, associations: Callable[[], int], silent: Callable[[], int], free_bytes: Callable[[], int]
    ) -> None:
        """Say where the gauges' values come from; they are read when somebody asks."""
        self._open.set_function(associations)
        self._silent.set_function(silent)
        self._free.set_function(free_bytes)

    def received(self, outcome: str, size_bytes: int = 0) -> None:
        """Count one C-STORE request.

        Parameters
        ----------
        outcome
            ``queued``, ``held``, ``not_scored``, ``resent``, or the code of the error.
        size_bytes
            Of the data set, if the answer was Success.
        """
        self._received.labels(outcome).inc()
        self._bytes.inc(size_bytes)

    def refused(self, reason: str) -> None:
        """Count one association or connection that was refused."""
        self._refused.labels(reason).inc()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Measure how long an answer takes."""
        with self._answer.time():
            yield

    def serve(self, address: str, port: int) -> Callable[[], None]:
        """Serve the metrics; return what stops that.

        Raises
        ------
        SettingsError
            If the port is in use.
        """
        return serve(self.registry, address, port, setting="metrics.listener_port")
