"""HTTP server of Prometheus metrics."""

from __future__ import annotations

import socket
from collections.abc import Callable

from prometheus_client import CollectorRegistry, start_http_server

from cxr.errors import SettingsError


def serve(registry: CollectorRegistry, address: str, port: int, *, setting: str) -> Callable[[], None]:
    """Serve a registry's metrics in Prometheus's text format.

    Parameters
    ----------
    registry
        Registry of the metrics.
    address, port
        IP address of this machine and TCP port to listen on.
    setting
        Name of the port's setting, for the message.

    Returns
    -------
    Callable
        Stops the server.

    Raises
    ------
    SettingsError
        If the port is in use, or the address is not one of this machine.
    """
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise _port_in_use(address, port, setting, error) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


def check_port(address: str, port: int, *, setting: str) -> None:
    """Check that `serve` can listen on a port, before a process is started that will.

    Raises
    ------
    SettingsError
        As `serve`.
    """
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise _port_in_use(address, port, setting, error) from error


def _port_in_use(address: str, port: int, setting: str, error: OSError) -> SettingsError:
    return SettingsError(
        f"Port {port} of {address} can't be listened on ({error.strerror}): set {setting} to a free port "
        "and metrics.bind to an address of this machine, or remove them."
    )
