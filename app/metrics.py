"""Metrics of the worker: jobs, deliveries and rebuilds by state, read from the database at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from config.metrics import serve
from cxr.domain import DeliveryState, JobState, RebuildState
from db import deliveries, jobs
from db.models import rebuilds

if TYPE_CHECKING:
    from db.disk import Spool
    from db.engine import Database


_MIB = 1024 * 1024


class QueueCollector(Collector):
    """Count jobs, deliveries and rebuilds by state at each scrape.

    Parameters
    ----------
    database, spool
        Source of the counts and of the free disk space.
    """

    def __init__(self, database: Database, spool: Spool) -> None:
        self._database = database
        self._spool = spool

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges; a state without rows counts 0."""
        with self._database.read() as session:
            job_counts = jobs.count_by_state(session)
            delivery_counts = deliveries.count_by_state(session)
            rebuild_counts = rebuilds.count_by_state(session)
        job_gauge = GaugeMetricFamily("cxr_jobs", "Images by the state of their job.", labels=["state"])
        for state in JobState:
            job_gauge.add_metric([state.value], job_counts[state])
        yield job_gauge
        delivery_gauge = GaugeMetricFamily("cxr_deliveries", "Deliveries by state.", labels=["state"])
        for delivery_state in DeliveryState:
            delivery_gauge.add_metric([delivery_state.value], delivery_counts[delivery_state])
        yield delivery_gauge
        rebuild_gauge = GaugeMetricFamily("cxr_rebuilds", "Rebuilds of the model by state.", labels=["state"])
        for rebuild_state in RebuildState:
            rebuild_gauge.add_metric([rebuild_state.value], rebuild_counts[rebuild_state])
        yield rebuild_gauge
        free_bytes = self._spool.free_mib() * _MIB
        yield GaugeMetricFamily("cxr_spool_free_bytes", "Free space of the spool's disk.", free_bytes)


def serve_metrics(
    database: Database, spool: Spool, address: str, port: int, registry: CollectorRegistry | None = None
) -> Callable[[], None]:
    """Serve the metrics over HTTP; return the function that stops the server.

    Parameters
    ----------
    database, spool
        Source of the counts and of the free disk space.
    address, port
        Address to bind.
    registry
        Further metrics of the process; None: none.

    Raises
    ------
    SettingsError
        If the port is in use.
    """
    registry = registry or CollectorRegistry()
    registry.register(QueueCollector(database, spool))
    return serve(registry, address, port, setting="metrics.worker_port")
