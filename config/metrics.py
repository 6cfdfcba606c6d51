"""HTTP server of Prometheus metrics."""

from __future__ import annotations

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
        raise SettingsError(
            f"Port {port} of {address} can't be listened on ({error.strerror}): set {setting} to a free port "
            "and metrics.bind to an address of this machine, or remove them."
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
