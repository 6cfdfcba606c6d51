"""The worker's metrics: what is in the queues, read from the database when it is asked."""

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
    """Counts jobs and deliveries by state at each scrape.

    Parameters
    ----------
    database, spool
        What is counted.
    """

    def __init__(self, database: Database, spool: Spool) -> None:
        self._database = database
        self._spool = spool

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give the gauges; states in which nothing is count as 0."""
        with self._database.read() as session:
            by_job = jobs.count_by_state(session)
            by_delivery = deliveries.count_by_state(session)
            by_rebuild = rebuilds.count_by_state(session)
        images = GaugeMetricFamily("cxr_jobs", "Images by the state of their job.", labels=["state"])
        for state in JobState:
            images.add_metric([state.value], by_job[state])
        yield images
        sendings = GaugeMetricFamily("cxr_deliveries", "Deliveries by state.", labels=["state"])
        for delivery_state in DeliveryState:
            sendings.add_metric([delivery_state.value], by_delivery[delivery_state])
        yield sendings
        of_model = GaugeMetricFamily("cxr_rebuilds", "Rebuilds of the model by state.", labels=["state"])
        for rebuild_state in RebuildState:
            of_model.add_metric([rebuild_state.value], by_rebuild[rebuild_state])
        yield of_model
        free_bytes = self._spool.free_mib() * _MIB
        yield GaugeMetricFamily("cxr_spool_free_bytes", "Free space of the spool's disk.", free_bytes)


def serve_metrics(
    database: Database, spool: Spool, address: str, port: int, registry: CollectorRegistry | None = None
) -> Callable[[], None]:
    """Serve the metrics; return what stops that.

    Parameters
    ----------
    database, spool
        What is counted.
    address, port
        Where.
    registry
        What the process counts itself; None: nothing.

    Raises
    ------
    SettingsError
        If the port is in use.
    """
    registry = registry or CollectorRegistry()
    registry.register(QueueCollector(database, spool))
    return serve(registry, address, port, setting="metrics.worker_port")
