"""What several listening processes of one service need done once, before the first of them starts."""

from __future__ import annotations

import socket

from config.settings import Settings
from cxr.errors import SettingsError
from listener.storage import open_storage


def prepare(settings: Settings) -> None:
    """Make the database and the spool, clear up what an earlier service left, and see that the ports are free.

    A single process does this at its own start. Among several the clearing up is only safe while none
    receives; and ports that are shared are not refused to a second service by the kernel.

    Raises
    ------
    SettingsError
        If data_dir can't be written, or a port is in use.
    StorageError
        If the database is another version's, or the spool is not the one that was here before.
    """
    if not settings.listener.tls.required:
        _check_port(settings.listener.bind, settings.listener.port, "listener.port")
    if settings.listener.tls.port is not None:
        _check_port(settings.listener.bind, settings.listener.tls.port, "listener.tls.port")
    database, _ = open_storage(settings, clear_up=True)
    database.dispose()


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
