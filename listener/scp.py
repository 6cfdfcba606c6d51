"""The Storage SCP: builds the listener, runs it, and stops it without cutting a transfer.

``cxr listen`` runs ``serve_forever``.
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
from listener.commitment_scp import CommitmentScp
from listener.contexts import Contexts
from listener.intake import Intake
from listener.metrics import Metrics
from listener.service import StorageService
from listener.startup import clear_up, locked_storage, open_storage, port_in_use
from listener.tls import server_certificates
from listener.transport import ListenerServer, Timeouts

_MIB = 1024 * 1024
_SILENT_PER_ASSOCIATION = 4  # connections without an association, for each allowed association
_FILES_PER_ASSOCIATION = 8  # its socket, two wake sockets, the received file, and the silent connections
_OTHER_FILES = 128
_DRAIN_POLL_S = 0.02
# Only the main thread handles signals, and one delivered to another thread does not end its wait.
_SIGNAL_CHECK_S = 0.5
_CUT_WAIT_S = 2.0

log = get_logger(__name__)


class Listener:
    """The running service: its ports, and the state that their associations share.

    Parameters
    ----------
    settings
        The ``listener`` table.
    service
        Admits associations and stores objects.
    admission
        That of `service`; rejects associations once the listener stops.
    """

    def __init__(self, settings: ListenerSettings, service: StorageService, admission: Admission) -> None:
        self._settings = settings
        self._admission = admission
        self.silent = SilentConnections(_SILENT_PER_ASSOCIATION * settings.max_associations)
        self._servers = self._bind(service)

    @property
    def associations(self) -> int:
        """Number of associations that were admitted and have not ended."""
        return self._admission.open

    def start(self) -> None:
        """Accept connections, in threads."""
        for server in self._servers:
            server.start()

    def stop(self) -> None:
        """Stop accepting, let transfers in flight finish, end every association; then return.

        Transfers that last longer than ``listener.drain_timeout_s`` are cut: their senders have no response
        and send the objects again.
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

    def _bind(self, service: StorageService) -> list[ListenerServer]:
        settings = self._settings
        ports: list[tuple[str, int, Certificates | None]] = []
        if not settings.tls.required:
            ports.append(("listener.port", settings.port, None))
        if settings.tls.port is not None:
            ports.append(("listener.tls.port", settings.tls.port, server_certificates(settings.tls)))
        with ExitStack() as cleanup:
            servers = []
            for setting, port, tls in ports:
                server = self._bind_one(setting, port, service, tls)
                cleanup.callback(server.server_close)
                servers.append(server)
            cleanup.pop_all()
        return servers

    def _bind_one(self, setting: str, port: int, service: StorageService, tls: Certificates | None) -> ListenerServer:
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
    # Our own admission limits them, after the A-ASSOCIATE-RQ.
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
    """Build a listener and bind its ports; it accepts connections once it is started.

    Parameters
    ----------
    settings
        All settings.
    database, spool
        The audit database and the spool, both open.
    metrics
        Counters.

    Raises
    ------
    SettingsError
        If a port can't be bound, or a file of the TLS settings can't be used.
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
    commitments = CommitmentScp(
        database, spool, keep_for=keep, reports_on_same_association=listening.commitment.report_on == "same", clock=_now
    )
    service = StorageService(
        admission, contexts, spool, intake, metrics, commitments, max_object_bytes=listening.max_object_mib * _MIB
    )
    listener = Listener(listening, service, admission)
    metrics.watch(
        associations=lambda: listener.associations,
        silent=lambda: len(listener.silent),
        free_bytes=lambda: spool.free_mib() * _MIB,
    )
    return listener


def serve_forever(settings: Settings, stop: threading.Event, *, process: int | None = None) -> None:
    """Receive until `stop` is set; then finish transfers in flight.

    Parameters
    ----------
    settings
        All settings.
    stop
        Event that stops the service.
    process
        Index of this process among several listening processes, from 0; their parent holds
        ``listener.startup.prepared``. None: the only process.

    Raises
    ------
    SettingsError
        If data_dir can't be written or is in use by another listener, or a port can't be bound.
    StorageError
        If the database has another version, or the spool is not that of the database.
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
            clear_up(database, spool, started_at=started_at)  # after the ports are bound
        if settings.listener_metrics_ports:
            stop_metrics = metrics.serve(settings.metrics.bind, settings.listener_metrics_ports[process or 0])
        _run(settings.listener, listener, database, stop)
    finally:
        if stop_metrics is not None:
            stop_metrics()
        database.dispose()


def _run(settings: ListenerSettings, listener: Listener, database: Database, stop: threading.Event) -> None:
    _record(database, EventKind.SERVICE_STARTED)
    listener.start()
    # Exempt all objects so far from garbage collection, which would delay peers.
    gc.collect()
    gc.freeze()
    log.info(
        "listening",
        bind=settings.bind,
        port=None if settings.tls.required else settings.port,
        tls_port=settings.tls.port,
        ae_title=settings.ae_title,
    )
    while not stop.wait(_SIGNAL_CHECK_S):
        continue
    log.info("stopping", open=listener.associations)
    listener.stop()
    _record(database, EventKind.SERVICE_STOPPED)
    log.info("stopped")


def _record(database: Database, kind: EventKind) -> None:
    with database.begin() as session:
        append_event(session, kind, now=_now(), facts={"role": "listener"})


def _raise_file_limit(needed: int) -> None:
    """Raise the soft limit of open files to the need of all associations, up to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _now() -> datetime:
    return datetime.now(UTC)
