"""Prometheus metrics of the listener; no label names a peer or a patient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from config.metrics import serve

_ANSWER_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """Counters and gauges of one listener, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._received = Counter(
            "cxr_received_objects", "C-STORE requests, by outcome", ["outcome"], registry=self.registry
        )
        self._bytes = Counter("cxr_received_bytes", "Bytes of data sets answered with Success", registry=self.registry)
        self._refused = Counter(
            "cxr_refused_associations", "Refused associations and connections", ["reason"], registry=self.registry
        )
        self._answer = Histogram(
            "cxr_store_seconds",
            "Time from the last byte of a data set to its response",
            buckets=_ANSWER_BUCKETS_S,
            registry=self.registry,
        )
        self._open = Gauge("cxr_open_associations", "Open associations", registry=self.registry)
        self._silent = Gauge("cxr_silent_connections", "Connections without an association", registry=self.registry)
        self._free = Gauge("cxr_spool_free_bytes", "Free bytes of the spool's file system", registry=self.registry)

    def watch(
        self, *, associations: Callable[[], int], silent: Callable[[], int], free_bytes: Callable[[], int]
    ) -> None:
        """Set the sources of the gauges; they are read at each scrape."""
        self._open.set_function(associations)
        self._silent.set_function(silent)
        self._free.set_function(free_bytes)

    def count_object(self, outcome: str, size_bytes: int = 0) -> None:
        """Count one C-STORE request.

        Parameters
        ----------
        outcome
            ``queued``, ``held``, ``not_scored``, ``resent``, or the code of the error.
        size_bytes
            Size of the data set if the status was Success, else 0.
        """
        self._received.labels(outcome).inc()
        self._bytes.inc(size_bytes)

    def count_refusal(self, reason: str) -> None:
        """Count one refused association or connection."""
        self._refused.labels(reason).inc()

    @contextmanager
    def time_answer(self) -> Iterator[None]:
        """Measure the duration of a response."""
        with self._answer.time():
            yield

    def serve(self, address: str, port: int) -> Callable[[], None]:
        """Serve the metrics over HTTP; return a function that stops the server.

        Raises
        ------
        SettingsError
            If the port is in use.
        """
        return serve(self.registry, address, port, setting="metrics.listener_port")
