"""``cxr work``: the worker alone, with its timers and senders, as a container runs it."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from prometheus_client import CollectorRegistry

from app.announce import print_on_terminal
from app.supervise import stop_event
from app.timers import Timers
from config.checks import check_start
from config.context import CommandContext
from config.logs import configure, get_logger
from config.native_logs import quiet_tensorflow
from config.settings import Settings
from cxr.errors import DatabaseUnavailable, PackageError, SpoolFull

if TYPE_CHECKING:
    from cxr.package import ModelPackage
    from db.disk import Spool
    from db.engine import Database
    from db.schema.records import ClaimedDelivery
    from inference.delivery.sender import Sender
    from inference.registry import Registry
    from inference.worker.metrics import ResultMetrics, StageTimes, WorkerMetrics
    from inference.worker.worker import Worker

app = typer.Typer(add_completion=False)
log = get_logger(__name__)

MIB = 1024 * 1024
PACKAGE_RETRY_S = 10.0


def now() -> datetime:
    """Return the time of the system clock, in UTC."""
    return datetime.now(UTC)


@app.command()
def work(
    ctx: typer.Context,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    profile: Annotated[bool, typer.Option("--profile", help="At the end, print the time of each stage.")] = False,
) -> None:
    """Score the images that the listener kept, write reports and deliver them.

    Example: cxr --config site.toml work --profile
    """
    context: CommandContext = ctx.obj
    settings = context.settings()
    configure(settings.log)
    check_start(settings)
    from inference.worker.loading import StoppedWhileLoading

    try:
        stages = run_worker(settings, stop_event(with_parent=with_parent), context.as_arguments())
    except StoppedWhileLoading:
        _end_at_once()
    if profile:
        typer.echo(stages.table(), err=True)


def run_worker(settings: Settings, stop: threading.Event, arguments: Sequence[str] = ()) -> StageTimes:
    """Assemble a worker and run it until ``stop`` is set.

    Parameters
    ----------
    settings
        All settings.
    stop
        Set by a signal.
    arguments
        Global options that give another process the same settings.

    Returns
    -------
    StageTimes
        Time spent in each stage.

    Raises
    ------
    SettingsError
        If a port or a file that the settings name can't be used.
    StorageError
        If the database or the spool can't be used.
    StoppedWhileLoading
        If ``stop`` is set while models are loaded; everything else has been closed.
    """
    from app.default_model import ensure_active_package
    from app.metrics import serve_metrics
    from app.rebuild.timer import RebuildTimer
    from inference.registry import Registry
    from inference.worker.loading import load_until_stopped
    from inference.worker.metrics import WorkerMetrics

    quiet_tensorflow(settings.worker.device)
    worker_id = f"{socket.gethostname()}:{os.getpid()}"
    with ExitStack() as running:
        database, spool = _open_storage(settings)
        running.callback(database.dispose)
        collectors = CollectorRegistry()
        if settings.metrics.worker_port is not None:
            running.callback(
                serve_metrics(database, spool, settings.metrics.bind, settings.metrics.worker_port, collectors)
            )
        metrics = WorkerMetrics.on(collectors)
        senders = _make_senders(settings, database, spool, metrics.results)
        timers = Timers(
            settings=settings,
            database=database,
            spool=spool,
            senders=senders,
            holder=worker_id,
            clock=now,
            rebuild=RebuildTimer(settings=settings.rebuild, database=database, arguments=arguments, clock=now),
        )
        timers.start()
        running.callback(timers.stop)
        registry = Registry(settings.models_dir)
        make_worker = partial(
            _make_worker, settings, database, spool, registry, worker_id, timers.wake_delivery, metrics
        )

        def put_into_service() -> None:
            ensure_active_package(registry, database, now(), selected=settings.worker.default_model)

        worker = load_until_stopped(make_worker, stop)
        while not stop.is_set():
            try:
                load_until_stopped(put_into_service, stop)
                worker.run(stop)
            except PackageError as error:
                # Delivery and retention go on; `cxr model promote` or `rollback` repairs it without a restart.
                log.exception("package_not_served", code=error.code)
                stop.wait(PACKAGE_RETRY_S)
            except (DatabaseUnavailable, SpoolFull) as error:
                log.warning("storage_refused", code=error.code)
                stop.wait(PACKAGE_RETRY_S)
    return metrics.stages


def _end_at_once() -> NoReturn:
    """End this process, although a thread is inside native code, which an ordinary end would wait for."""
    from cxr.package.scratch import remove_own

    log.info("stopped_while_loading", count=remove_own())
    logging.shutdown()
    os._exit(0)


def _open_storage(settings: Settings) -> tuple[Database, Spool]:
    """Open the database and the spool; create them where they are missing."""
    from db.disk import Spool
    from db.engine import open_database
    from db.identifiers import load_identifiers

    identifiers = load_identifiers(
        settings.audit.identifiers, settings.pseudonym_key_path, create=settings.audit.identifiers != "full"
    )
    database = open_database(
        settings.database_path,
        settings.audit_key_path,
        create=True,
        identifiers=identifiers,
        traces=settings.database_traces,
    )
    spool = Spool(settings.spool_dir, min_free_mib=settings.listener.min_free_mib)
    spool.prepare()
    return database, spool


def _make_senders(settings: Settings, database: Database, spool: Spool, results: ResultMetrics) -> list[Sender]:
    """Create one sender for each destination."""
    from config.advice import unbound_destinations
    from config.pynetdicom_overrides import check_version
    from inference.delivery.sender import Sender

    def count(delivery: ClaimedDelivery) -> None:
        results.count_delivery(delivery.destination, wait_s=(now() - delivery.created_at).total_seconds())

    check_version()
    results.expect_destinations(destination.name for destination in settings.destinations)
    for destination in unbound_destinations(settings):
        # A destination that also sends gets no results of its own images; a site may expect them.
        log.warning("destination_gets_no_results_of_its_own_images", destination=destination.name)
    return [
        Sender(
            destination,
            database=database,
            spool=spool,
            settings=settings.delivery,
            calling_ae_title=destination.calling_ae_title or settings.listener.ae_title,
            sent=count,
        )
        for destination in settings.destinations
    ]


def _make_worker(
    settings: Settings,
    database: Database,
    spool: Spool,
    registry: Registry,
    worker_id: str,
    reported: Callable[[], None],
    metrics: WorkerMetrics,
) -> Worker:
    """Create the worker and import the libraries that its first report needs."""
    from inference.model.model import Model
    from inference.report.build import ReportOptions
    from inference.report.check import warm_up
    from inference.worker.reporter import Reporter
    from inference.worker.shadow import Shadow
    from inference.worker.view_check import ViewCheck
    from inference.worker.worker import Worker

    warm_up()
    reporter = Reporter(
        spool=spool,
        options=ReportOptions(title=settings.report.title),
        clock=now,
        max_inflated_bytes=settings.listener.max_object_mib * MIB,
        saliency=settings.report.saliency,
        deliver_untrained=settings.report.deliver_untrained,
    )
    shadow = Shadow(
        database=database,
        models_dir=settings.models_dir,
        settings=settings.worker,
        path_of=spool.path,
        shape_of=reporter.shape_of,
        clock=now,
        metrics=metrics.shadow,
    )

    def load(package: ModelPackage) -> Model:
        return Model.load(package, device=settings.worker.device, runtime=settings.worker.runtime)

    def load_view() -> ViewCheck | None:
        view = ViewCheck.load(settings.view, load)
        print_on_terminal("ready: the worker has loaded its models")  # the model in service is loaded before
        return view

    return Worker(
        database=database,
        spool=spool,
        registry=registry,
        settings=settings.worker,
        destinations=settings.destinations,
        reporter=reporter,
        load_model=load,
        worker_id=worker_id,
        clock=now,
        reported=reported,
        shadow=shadow,
        load_view=load_view,
        stages=metrics.stages,
        results=metrics.results,
    )
