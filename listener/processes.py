"""What several listening processes of one service need done once, before the first of them starts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from config.settings import Settings
from cxr.errors import SettingsError
from listener.storage import clear_up, locked_storage, open_storage


@contextmanager
def prepared(settings: Settings) -> Iterator[None]:
    """Hold the data folder, see that the ports are free, and clear up what an earlier service left.

    A single process does this at its own start. Among several the clearing up is only safe while none
    receives; and ports that are shared are not refused to a second service by the kernel.

    Raises
    ------
    SettingsError
        If data_dir can't be written or is another listener's, or a port is in use.
    StorageError
        If the database is another version's, or the spool is not the one that was here before.
    """
    started_at = datetime.now(UTC)
    with locked_storage(settings):
        if not settings.listener.tls.required:
            _check_port(settings.listener.bind, settings.listener.port, "listener.port")
        if settings.listener.tls.port is not None:
            _check_port(settings.listener.bind, settings.listener.tls.port, "listener.tls.port")
        database, spool = open_storage(settings)
        try:
            clear_up(database, spool, started_at=started_at)
        finally:
            database.dispose()
        yield


def _check_port(address: str, port: int, setting: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise port_in_use(address, port, setting, error) from error


def port_in_use(address: str, port: int, setting: str, error: OSError) -> SettingsError:
    """Say that a port can't be listened on, and what to do."""
    return SettingsError(
        f"Port {port} of {address} can't be listened on ({error.strerror}): stop what uses it, or set "
        f"{setting} and listener.bind to what is free here."
    )
