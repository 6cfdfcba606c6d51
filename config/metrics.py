"""How a process serves its metrics: over HTTP, on loopback, where a port is set."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, start_http_server

from cxr.errors import SettingsError

HOST = "127.0.0.1"


def serve(registry: CollectorRegistry, port: int, *, setting: str) -> Callable[[], None]:
    """Serve a registry's metrics in Prometheus's text format.

    Parameters
    ----------
    registry
        What is served.
    port
        TCP port, on loopback.
    setting
        Name of the setting that the port comes from, for the message.

    Returns
    -------
    Callable
        Stops it.

    Raises
    ------
    SettingsError
        If the port is in use.
    """
    try:
        server, thread = start_http_server(port, addr=HOST, registry=registry)
    except OSError as error:
        raise SettingsError(
            f"Port {port} of {HOST} can't be listened on ({error.strerror}): set {setting} to a free one, or remove it."
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
