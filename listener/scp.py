"""The Storage SCP: puts the parts together, starts them, and stops them without cutting an object.

``serve_forever`` is what ``cxr listen`` runs.
"""

from __future__ import annotations

import gc
import resource
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime, timedelta

from pydicom.uid import UID
from pynetdicom import AE

from config.certificates import Certificates
from config.logs import get_logger
from config.pynetdicom_overrides import check_version
from config.settings import ListenerSettings, PeerSettings, Settings
from cxr import product
from cxr.domain import Peer
from db.disk import Spool
from db.engine import Database
from db.events import EventKind, append_event
from listener.admission import Admission, Peers, SilentConnections
from listener.commitment_scp import Commitments
from listener.contexts import Contexts
from listener.handlers import Handlers
from listener.intake import Intake
from listener.metrics import Metrics
from listener.service import Service, Timeouts
from listener.startup import clear_up, locked_storage, open_storage, port_in_use
from listener.tls import server_certificates
from listener.transport import ListenerServer

_MIB = 1024 * 1024
_SILENT_PER_ASSOCIATION = 4  # connections without an association, for each association that is allowed
_FILES_PER_ASSOCIATION = 8  # its socket, what wakes its thread, the file it receives, and the silent ones
_OTHER_FILES = 128
_DRAIN_POLL_S = 0.02
# A signal that another thread was given does not end a wait of the main thread, which alone can handle it.
_LOOK_FOR_SIGNALS_S = 0.5
_CUT_WAIT_S = 2.0

log = get_logger(__name__)


class Listener:
    """The running service: its ports, and what is shared by their associations.

    Parameters
    ----------
    settings
        The listener's slice.
    service
        What decides and takes in.
    admission
        What `service` asks; told when the service stops.
    """

    def __init__(self, settings: ListenerSettings, service: Service, admission: Admission) -> None:
        self._settings = settings
        self._admission = admission
        self.silent = SilentConnections(_SILENT_PER_ASSOCIATION * settings.max_associations)
        self._servers = self._bind(service)

    @property
    def associations(self) -> int:
        """Associations that were admitted and have not ended."""
        return self._admission.open

    def start(self) -> None:
        """Accept connections, in threads."""
        for server in self._servers:
            server.start()

    def stop(self) -> None:
        """Accept nothing more, let objects in flight finish, end every association; then return.

        What is not finished after ``listener.drain_timeout_s`` is cut: its sender has no answer and
        sends it again.
        """
        self._admission.stop()
        for server in self._servers:
            server.stop_accepting()
        self.silent.cut_all()
        if not self._wait_until_empty(self._settings.drain_timeout_s):
            log.warning("drain_timed_out", open=self.associations)
            for server in self._servers:
                server.cut()
            self._wait_until_empty(_CUT_WAIT_S)

    def _wait_until_empty(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while any(server.associations for server in self._servers):
            if time.monotonic() > deadline:
                return False
            time.sleep(_DRAIN_POLL_S)
        return True

    def _bind(self, service: Service) -> list[ListenerServer]:
        settings = self._settings
        ports: list[tuple[str, int, Certificates | None]] = []
        if not settings.tls.required:
            ports.append(("listener.port", settings.port, None))
        if settings.tls.port is not None:
            ports.append(("listener.tls.port", settings.tls.port, server_certificates(settings.tls)))
        with ExitStack() as bound:
            servers = []
            for setting, port, tls in ports:
                server = self._bind_one(setting, port, service, tls)
                bound.callback(server.server_close)
                servers.append(server)
            bound.pop_all()
        return servers

    def _bind_one(self, setting: str, port: int, service: Service, tls: Certificates | None) -> ListenerServer:
        settings = self._settings
        timeouts = Timeouts(
            handshake_s=settings.tls.handshake_timeout_s,
            acse_s=settings.acse_timeout_s,
            dimse_s=settings.dimse_timeout_s,
            message_s=settings.message_timeout_s,
            idle_s=settings.idle_timeout_s,
        )
        try:
            return ListenerServer(
                _entity(settings),
                (settings.bind, port),
                service,
                timeouts,
                self.silent,
                tls,
                shares_port=settings.processes > 1,
            )
        except OSError as error:
            raise port_in_use(settings.bind, port, setting, error) from error


def _entity(settings: ListenerSettings) -> AE:
    entity = AE(settings.ae_title)
    entity.implementation_class_uid = UID(product.IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = product.IMPLEMENTATION_VERSION_NAME
    entity.maximum_pdu_size = settings.max_pdu_bytes
    # Counted by our own admission, and not before an A-ASSOCIATE-RQ has come.
    entity.maximum_associations = 2**31
    entity.require_called_aet = False
    return entity


def _peer(settings: PeerSettings) -> Peer:
    limit_mib = settings.max_object_mib
    return Peer(
        ae_title=settings.ae_title,
        network=settings.network,
        max_associations=settings.max_associations,
        max_object_bytes=None if limit_mib is None else limit_mib * _MIB,
    )


def build(settings: Settings, database: Database, spool: Spool, metrics: Metrics) -> Listener:
    """Put a listener together and open its ports; it accepts nothing before it is started.

    Parameters
    ----------
    settings
        All settings.
    database, spool
        Where received objects go; prepared.
    metrics
        What counts.

    Raises
    ------
    SettingsError
        If a port can't be listened on, or a file of the TLS settings can't be used.
    """
    listening = settings.listener
    contexts = Contexts(listening)
    admission = Admission(
        Peers(map(_peer, settings.peers)),
        listening.ae_title if listening.check_called_ae_title else None,
        listening.max_associations,
        spool.is_full,
    )
    intake = Intake(
        database,
        spool,
        contexts,
        unknown_view=settings.view.unknown,
        max_inflated_bytes=listening.max_object_mib * _MIB,
        clock=_now,
    )
    keep = timedelta(days=listening.commitment.keep_days)
    commitments = Commitments(database, spool, keep=keep, on_same=listening.commitment.report_on == "same", clock=_now)
    handlers = Handlers(
        admission, contexts, spool, intake, metrics, commitments, max_object_bytes=listening.max_object_mib * _MIB
    )
    listener = Listener(listening, handlers, admission)
    metrics.watch(
        associations=lambda: listener.associations,
        silent=lambda: len(listener.silent),
        free_bytes=lambda: spool.free_mib() * _MIB,
    )
    return listener


def serve_forever(settings: Settings, stop: threading.Event, *, process: int | None = None) -> None:
    """Receive until told to stop; then finish what is in flight.

    Parameters
    ----------
    settings
        All settings.
    stop
        Set it to stop.
    process
        Which of several listening processes this is, from 0; ``listener.startup.prepared`` is
        held by the one that started it. None: the only one.

    Raises
    ------
    SettingsError
        If data_dir can't be written or is another listener's, or a port can't be listened on.
    StorageError
        If the database is another version's, or the spool is not the one that was here before.
    """
    check_version()
    with nullcontext() if process is not None else locked_storage(settings):
        _serve(settings, stop, process)


def _serve(settings: Settings, stop: threading.Event, process: int | None) -> None:
    started_at = _now()
    database, spool = open_storage(settings)
    _raise_file_limit(_OTHER_FILES + _FILES_PER_ASSOCIATION * settings.listener.max_associations)
    metrics = Metrics()
    stop_metrics: Callable[[], None] | None = None
    try:
        listener = build(settings, database, spool, metrics)
        if process is None:
            clear_up(database, spool, started_at=started_at)  # after the ports are ours
        metrics_port = settings.metrics.listener_port
        stop_metrics = metrics.serve(settings.metrics.bind, metrics_port + (process or 0)) if metrics_port else None
        _run(settings.listener, listener, database, stop)
    finally:
        if stop_metrics is not None:
            stop_metrics()
        database.dispose()


def _run(settings: ListenerSettings, listener: Listener, database: Database, stop: threading.Event) -> None:
    _record(database, EventKind.SERVICE_STARTED)
    listener.start()
    # What is here now stays: a collection need not look at it again while peers wait.
    gc.collect()
    gc.freeze()
    log.info(
        "listening",
        bind=settings.bind,
        port=None if settings.tls.required else settings.port,
        tls_port=settings.tls.port,
        ae_title=settings.ae_title,
    )
    while not stop.wait(_LOOK_FOR_SIGNALS_S):
        continue
    log.info("stopping", open=listener.associations)
    listener.stop()
    _record(database, EventKind.SERVICE_STOPPED)
    log.info("stopped")


def _record(database: Database, kind: EventKind) -> None:
    with database.begin() as session:
        append_event(session, kind, now=_now(), facts={"role": "listener"})


def _raise_file_limit(needed: int) -> None:
    """Allow this process as many open files as its associations may need, where the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _now() -> datetime:
    return datetime.now(UTC)
