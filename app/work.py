"""``cxr work``: the worker alone, with its timers and senders, as a container runs it."""

from __future__ import annotations

import os
import socket
import threading
from datetime import UTC, datetime
from typing import Annotated

import typer

from app.stopping import stop_event
from app.timers import Timers
from config.checks import check_start
from config.context import CommandContext
from config.logs import configure, get_logger
from config.native_logs import quiet_tensorflow
from config.settings import Settings

app = typer.Typer(add_completion=False)
log = get_logger(__name__)

MIB = 1024 * 1024


def now() -> datetime:
    """The time of this process's clock, in UTC."""
    return datetime.now(UTC)


@app.command()
def work(
    ctx: typer.Context,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Score the images that the listener kept, write reports and deliver them.

    Example: cxr --config site.toml work
    """
    context: CommandContext = ctx.obj
    settings = context.settings()
    configure(settings.log)
    check_start(settings)
    run_worker(settings, stop_event(with_parent=with_parent))


def run_worker(settings: Settings, stop: threading.Event) -> None:
    """Put a worker together and run it until ``stop`` is set.

    Raises
    ------
    PackageError
        If the active model package can't be served.
    StorageError
        If the database or the spool can't be used.
    """
    from app.default_model import ensure_active_package
    from db.engine import open_database
    from db.spool import Spool
    from inference.delivery.routes import unbound_senders
    from inference.delivery.sender import Sender
    from inference.model import Model
    from inference.registry import Registry
    from inference.report import ReportOptions, warm_up
    from inference.reporter import Reporter
    from inference.worker import Worker

    quiet_tensorflow(settings.worker.device)
    worker_id = f"{socket.gethostname()}:{os.getpid()}"
    database = open_database(settings.database_path, settings.audit_key_path, create=True)
    spool = Spool(settings.spool_dir, min_free_mib=settings.listener.min_free_mib)
    spool.prepare()
    for destination in unbound_senders(settings.peers, settings.destinations):
        # Its own images' results don't go back to it: said once, because a site may expect them.
        log.warning("destination_gets_no_results_of_its_own_images", destination=destination.name)
    senders = [
        Sender(
            destination,
            database=database,
            spool=spool,
            settings=settings.delivery,
            calling_ae_title=destination.calling_ae_title or settings.listener.ae_title,
            clock=now,
        )
        for destination in settings.destinations
    ]
    timers = Timers(settings=settings, database=database, spool=spool, senders=senders, holder=worker_id, clock=now)
    timers.start()
    try:
        registry = Registry(settings.models_dir)
        ensure_active_package(registry, database, now())
        warm_up()
        Worker(
            database=database,
            spool=spool,
            registry=registry,
            settings=settings.worker,
            destinations=settings.destinations,
            reporter=Reporter(
                spool=spool,
                options=ReportOptions(title=settings.report.title),
                clock=now,
                max_inflated_bytes=settings.listener.max_object_mib * MIB,
                saliency=settings.report.saliency,
                deliver_untrained=settings.report.deliver_untrained,
            ),
            load_model=lambda package: Model.load(package, device=settings.worker.device),
            worker_id=worker_id,
            clock=now,
            reported=timers.wake_delivery,
        ).run(stop)
    finally:
        timers.stop()
        database.dispose()
