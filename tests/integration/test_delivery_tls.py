"""TLS towards destinations: certificates that are renewed while the service runs."""

from __future__ import annotations

import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from config.settings import DestinationSettings
from cxr.domain import DeliveryState
from cxr.errors import SettingsError
from inference.delivery.client_factory import make_client

NAMES = ("peer.pem", "peer.key", "ca.pem")


@pytest.fixture
def authorities(tmp_path: Path, make_certificates: Callable[[Path], Path]) -> tuple[Path, Path, Path]:
    """Two authorities, and the folder that the settings of the destination name."""
    live = tmp_path / "live"
    live.mkdir()
    old, new = make_certificates(tmp_path / "old"), make_certificates(tmp_path / "new")
    install(old, live)
    return old, new, live


def install(source: Path, target: Path) -> None:
    """Renew all files as certificate tools do: written aside, then renamed."""
    for name in NAMES:
        Path(shutil.copy2(source / name, target / f".{name}")).replace(target / name)


def named(folder: Path) -> dict[str, Any]:
    certificate, key, ca = NAMES
    return {"tls_ca": folder / ca, "tls_certificate": folder / certificate, "tls_key": folder / key}


def server_of(authority: Path) -> ssl.SSLContext:
    """A peer that shows a certificate of this authority, and takes no other's."""
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(authority / "server.pem", authority / "server.key")
    served.load_verify_locations(authority / "ca.pem")
    served.verify_mode = ssl.CERT_REQUIRED
    return served


@pytest.mark.parametrize("fault", ["", "garbage", "readable key", "another key"])
def test_renewed_certificates_are_used_without_a_restart(
    fault: str,
    authorities: tuple[Path, Path, Path],
    outbox: Any,
    sender_to: Any,
    peer_factory: Any,
    free_port: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    old, new, live = authorities
    port = free_port()
    caplog.set_level("DEBUG")
    outbox.add(0)
    peer_factory(tls=server_of(old), port=port)
    sender = sender_to(f"PEER@127.0.0.1:{port}", tls=True, **named(live))
    sender.send_due(outbox.rows()[0].due_at)
    assert outbox.rows()[0].state is DeliveryState.SENT
    sender.close()  # as after a moment without reports

    outbox.add(1)
    port = free_port()
    peer_factory(tls=server_of(old if fault else new), port=port)
    if fault == "garbage":
        (live / "peer.pem").write_text("no certificate")
    elif fault == "readable key":
        (live / "peer.key").chmod(0o644)
        (live / "peer.pem").touch()
    elif fault == "another key":
        shutil.copy2(new / "peer.key", live / "peer.key")
    else:
        install(new, live)
    move(sender, port)
    sender.send_due(outbox.rows()[1].due_at)
    assert [row.state for row in outbox.rows()] == [DeliveryState.SENT] * 2
    said = " ".join(record.getMessage() for record in caplog.records)
    assert ("tls_certificate_not_renewed" in said) is bool(fault)
    assert ("tls_certificate_renewed" in said) is not bool(fault)


def move(sender: Any, port: int) -> None:
    """Let the destination be another peer: one that asks for another authority's certificates."""
    client = sender._client
    before = client._address
    client._address = type(before)(
        ae_title=before.ae_title,
        host=before.host,
        port=port,
        calling_ae_title=before.calling_ae_title,
        timeout_s=before.timeout_s,
        tls=before.tls,
    )


def test_a_key_that_others_can_read_is_refused(authorities: tuple[Path, Path, Path]) -> None:
    _, _, live = authorities
    (live / "peer.key").chmod(0o640)
    destination = DestinationSettings(name="pacs", kind="dicom", address="PEER@127.0.0.1:4242", tls=True, **named(live))
    with pytest.raises(SettingsError, match="chmod 600"):
        make_client(destination, "CXR")


class _Searched(BaseHTTPRequestHandler):
    """Answers every search with nothing found, and closes the connection."""

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web_of() -> Iterator[Callable[[Path], str]]:
    servers: list[ThreadingHTTPServer] = []

    def serve(authority: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Searched)
        server.socket = server_of(authority).wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"https://127.0.0.1:{server.server_address[1]}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_dicomweb_reads_its_files_for_each_connection(
    authorities: tuple[Path, Path, Path], web_of: Callable[[Path], str]
) -> None:
    old, new, live = authorities
    session = make_client(
        DestinationSettings(name="web", kind="stow", address=web_of(old), **named(live)), "CXR"
    )._store_service._session
    assert session.get(web_of(old), timeout=30).status_code == 204
    install(new, live)
    assert session.get(web_of(new), timeout=30).status_code == 204
