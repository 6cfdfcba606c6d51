"""Start-up of the listener: lock the data folder, open database and spool, check the ports.

With several listening processes this is done once, before the first of them starts.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

from config import metrics
from config.logs import get_logger
from config.settings import Settings
from cxr.errors import SettingsError
from db.disk import Spool, lock_for_listener
from db.engine import Database, open_database
from db.identifiers import load_identifiers, record_identifier_form
from db.upkeep.retention import sweep

log = get_logger(__name__)

# A worker may just have written a report whose row is not committed yet.
_SWEEP_MARGIN = timedelta(minutes=1)


@contextmanager
def locked_storage(settings: Settings) -> Iterator[None]:
    """Lock the data folder for this listener; see `db.disk.folder_lock`.

    Raises
    ------
    SettingsError
        If data_dir can't be written, or another listener uses it.
    """
    with ExitStack() as locks:
        with _disk_errors_as_settings_errors():
            locks.enter_context(_lock(settings))
        yield


def _lock(settings: Settings) -> AbstractContextManager[None]:
    listening = settings.listener
    port = None if listening.tls.required else listening.port
    return lock_for_listener(settings.data_dir, bind=listening.bind, port=port, tls_port=listening.tls.port)


def open_storage(settings: Settings) -> tuple[Database, Spool]:
    """Open the database and the spool; create them where they are missing.

    Parameters
    ----------
    settings
        All settings.

    Raises
    ------
    SettingsError
        If data_dir can't be written.
    StorageError
        If the database has another version, or the spool is not that of the database.
    """
    with _disk_errors_as_settings_errors():
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
    with database.begin() as session:
        record_identifier_form(session, identifiers, now=datetime.now(UTC))
    return database, spool


def clear_up(database: Database, spool: Spool, *, started_at: datetime) -> None:
    """Quarantine files without a row, and remove incomplete files of cut transfers.

    Call it only while the data folder is locked, the ports are bound, and no process receives into this spool.

    Parameters
    ----------
    database, spool
        The audit database and the spool, both open.
    started_at
        Start time of this service, time zone aware; later files are left alone.
    """
    swept = sweep(database, spool, older_than=started_at - _SWEEP_MARGIN, now=started_at)
    if swept.quarantined:
        log.warning("orphans_quarantined", count=swept.quarantined)


@contextmanager
def _disk_errors_as_settings_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"data_dir can't be used ({error.strerror}); accepted is a folder that the service's account may write: "
            "set data_dir, or grant the permission."
        ) from error


@contextmanager
def prepared(settings: Settings) -> Iterator[None]:
    """Lock the data folder, check that the ports are free, and clean up files of an earlier service.

    For the parent of several listening processes: cleaning up is safe only while none receives, and shared ports
    (SO_REUSEPORT) are not refused to a second service by the kernel. A single process does this in its own start.

    Raises
    ------
    SettingsError
        If data_dir can't be written or is in use by another listener, or a port is in use.
    StorageError
        If the database has another version, or the spool is not that of the database.
    """
    started_at = datetime.now(UTC)
    with locked_storage(settings):
        check_ports(settings)
        database, spool = open_storage(settings)
        try:
            clear_up(database, spool, started_at=started_at)
        finally:
            database.dispose()
        yield


def check_ports(settings: Settings) -> None:
    """Check that the ports of the listener and of its metrics are free.

    Raises
    ------
    SettingsError
        If one of them can't be bound.
    """
    listening = settings.listener
    if not listening.tls.required:
        _check_port(listening.bind, listening.port, "listener.port")
    if listening.tls.port is not None:
        _check_port(listening.bind, listening.tls.port, "listener.tls.port")
    for port in settings.listener_metrics_ports:
        metrics.check_port(settings.metrics.bind, port, setting="metrics.listener_port")


def _check_port(address: str, port: int, setting: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise port_in_use(address, port, setting, error) from error


def port_in_use(address: str, port: int, setting: str, error: OSError) -> SettingsError:
    """Return the error for a port that can't be bound."""
    return SettingsError(
        f"Port {port} of {address} can't be listened on ({error.strerror}): stop the program that uses it, or set "
        f"{setting} and listener.bind to a free port and an address of this machine."
    )
