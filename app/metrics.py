"""Metrics of the worker that are read at each scrape: jobs, deliveries and rebuilds by state, the model in service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from config.metrics import serve
from cxr.domain import DeliveryState, JobState, RebuildState
from db import deliveries, jobs
from db.jobs.operator_actions import first_received
from db.models import list_activations, rebuilds

if TYPE_CHECKING:
    from db.disk import Spool
    from db.engine import Database


_MIB = 1024 * 1024
_WAITING: Final = (JobState.QUEUED, JobState.SCORING, JobState.HELD)


def _now() -> datetime:
    return datetime.now(UTC)


class QueueCollector(Collector):
    """Count jobs, deliveries and rebuilds by state at each scrape.

    Parameters
    ----------
    database, spool
        Source of the counts and of the free disk space.
    clock
        Returns the current time, aware.
    """

    def __init__(self, database: Database, spool: Spool, *, clock: Callable[[], datetime] = _now) -> None:
        self._database = database
        self._spool = spool
        self._clock = clock

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges; a state without rows counts 0."""
        with self._database.read() as session:
            oldest = {state: first_received(session, state) for state in _WAITING}
            active = list_activations(session, limit=1)
            job_counts = jobs.count_by_state(session)
            delivery_counts = deliveries.count_by_state(session)
            rebuild_counts = rebuilds.count_by_state(session)
        job_gauge = GaugeMetricFamily("cxr_jobs", "Images by the state of their job.", labels=["state"])
        for state in JobState:
            job_gauge.add_metric([state.value], job_counts[state])
        yield job_gauge
        now = self._clock()
        age_gauge = GaugeMetricFamily(
            "cxr_oldest_job_seconds", "Time since the receipt of the earliest image in a state.", labels=["state"]
        )
        for state, received_at in oldest.items():
            age_gauge.add_metric(
                [state.value], 0 if received_at is None else max(0, (now - received_at).total_seconds())
            )
        yield age_gauge
        model = GaugeMetricFamily(
            "cxr_model_info", "1 for the model package in service.", labels=["name", "version", "status", "fingerprint"]
        )
        for each in active:
            model.add_metric([each.name, each.version, each.status.value, each.fingerprint], 1)
        yield model
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
