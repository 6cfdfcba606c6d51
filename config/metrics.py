"""How a process serves its metrics: over HTTP, where a port is set."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, start_http_server

from cxr.errors import SettingsError


def serve(registry: CollectorRegistry, address: str, port: int, *, setting: str) -> Callable[[], None]:
    """Serve a registry's metrics in Prometheus's text format.

    Parameters
    ----------
    registry
        What is served.
    address, port
        Where: an IP address of this machine, and a TCP port.
    setting
        Name of the setting that the port comes from, for the message.

    Returns
    -------
    Callable
        Stops it.

    Raises
    ------
    SettingsError
        If the port is in use, or the address is none of this machine's.
    """
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise SettingsError(
            f"Port {port} of {address} can't be listened on ({error.strerror}): set {setting} and metrics.bind to what "
            "is free here, or remove them."
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
