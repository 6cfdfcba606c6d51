"""STOW-RS and QIDO-RS: Orthanc's DICOMweb plugin, and services that answer with something else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from config.settings import DestinationSettings
from cxr.domain import DeliveryState
from cxr.errors import AccessRefused, DeliveryError, PeerBusy, PeerRefused, PeerUnreachable
from inference.delivery.bounded_http import MAX_ANSWER_BYTES
from inference.delivery.destination_client import OutgoingReport, Presence
from inference.delivery.stow_client import StowClient
from inference.report.uids import derive_uid, series_uid

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture
def web_orthanc(orthanc_factory: Callable[..., Any], require_peer: Callable[[str], str]) -> Any:
    if not PLUGIN.exists():
        require_peer(str(PLUGIN))
    return orthanc_factory(
        Plugins=[str(PLUGIN)],
        DicomWeb={"Enable": True, "Root": "/dicom-web/"},
        AuthenticationEnabled=True,
        RegisteredUsers={"cxr": "s3cret"},
    )


def test_orthanc_stores_and_finds_it(web_orthanc: Any, outbox: Any, sender_to: Any) -> None:
    outbox.add()
    sender = sender_to(
        f"{web_orthanc.url}/dicom-web", kind="stow", verify="auto", username="cxr", password="s3cret", timeout_s=10.0
    )
    sender.deliver_due(outbox.row().due_at)
    assert (outbox.row().state, outbox.row().status) == (DeliveryState.SENT, 200)
    sender.deliver_due(outbox.row().due_at)
    assert (outbox.row().state, outbox.row().verified_by) == (DeliveryState.VERIFIED, "qido_rs")


def test_orthanc_has_the_very_dataset_and_one_of_it(web_orthanc: Any, outgoing: Any, client_to: Any) -> None:
    client = client_to(f"{web_orthanc.url}/dicom-web", username="cxr", password="s3cret")
    for _ in range(3):
        client.store(outgoing())
    found = client._search_service._client.retrieve_study(outgoing().study_instance_uid)
    assert found == [dcmread(outgoing().path)]


def test_orthanc_without_the_password(web_orthanc: Any, outgoing: Any, client_to: Any) -> None:
    with pytest.raises(AccessRefused) as caught:
        client_to(f"{web_orthanc.url}/dicom-web", username="cxr", password="wrong").store(outgoing())
    assert (caught.value.status, caught.value.retryable) == (401, True)


def test_orthanc_says_what_it_does_not_have(web_orthanc: Any, outgoing: Any, client_to: Any) -> None:
    client = client_to(f"{web_orthanc.url}/dicom-web", username="cxr", password="s3cret")
    assert client.verify([outgoing()])[0].presence is Presence.ABSENT


@pytest.fixture
def client_to() -> Iterator[Callable[..., StowClient]]:
    made: list[StowClient] = []

    def make(url: str, **settings: Any) -> StowClient:
        destination = DestinationSettings(
            **({"name": "web", "kind": "stow", "address": url, "timeout_s": 5.0} | settings)
        )
        made.append(StowClient(destination))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def outgoing(report_file: Callable[..., Path]) -> Callable[..., OutgoingReport]:
    def make() -> OutgoingReport:
        uid = derive_uid("test", "instance", "0")
        return OutgoingReport(
            report_id=0,
            path=report_file(),
            sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
            sop_instance_uid=uid,
            study_instance_uid=derive_uid("test", "study", "0"),
            series_instance_uid=series_uid(uid),
        )

    return make


@pytest.fixture
def service() -> Iterator[Callable[..., str]]:
    """Start a web service that gives one answer to everything."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: bytes = b"", **headers: str) -> str:
        class Answering(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                for name, value in ({"Content-Type": "application/dicom+json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer  # noqa: N815 (the server's names)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/dicom-web"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def failed(reason: int) -> bytes:
    item = {
        "00081155": {"vr": "UI", "Value": [derive_uid("test", "instance", "0")]},
        "00081197": {"vr": "US", "Value": [reason]},
    }
    return json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "error", "recorded"),
    [
        (503, b"", PeerBusy, 503),
        (500, b"", PeerBusy, 500),
        (429, b"", PeerBusy, 429),
        (409, b"", PeerRefused, 409),
        (413, b"", PeerRefused, 413),
        (415, b"", PeerRefused, 415),
        (403, b"", AccessRefused, 403),
        (404, b"", AccessRefused, 404),
        (409, failed(0xA700), PeerBusy, 0xA700),
        (409, failed(0x0122), PeerRefused, 0x0122),
        (202, failed(0xA700), PeerBusy, 0xA700),
        (202, failed(0xC000), PeerRefused, 0xC000),
        (200, failed(0x0124), PeerRefused, 0x0124),
        (200, b'{"00081190": {"vr": "UR", "Value": ["http://elsewhere"]}}', PeerBusy, None),
        (200, b"{}", PeerBusy, None),
        (200, b"<html>log in here</html>", AccessRefused, None),
        (200, b'{"error": "log in"}', AccessRefused, None),
        (200, b'"stored"', AccessRefused, None),
        (202, b"[" * 100_000, AccessRefused, None),
        (200, b" " * (MAX_ANSWER_BYTES + 1), AccessRefused, None),
    ],
)
def test_answers(
    status: int,
    body: bytes,
    error: type[DeliveryError],
    recorded: int | None,
    service: Any,
    outgoing: Any,
    client_to: Any,
) -> None:
    with pytest.raises(error) as caught:
        client_to(service(status, body)).store(outgoing())
    assert type(caught.value) is error
    assert caught.value.status == recorded


def failed_in_xml(reason: int, *, namespace: str = "", head: str = "") -> bytes:
    uid = derive_uid("test", "instance", "0")
    values = f'<DicomAttribute tag="00081155" vr="UI"><Value number="1">{uid}</Value></DicomAttribute>'
    values += f'<DicomAttribute tag="00081197" vr="US"><Value number="1">{reason}</Value></DicomAttribute>'
    sequence = f'<DicomAttribute tag="00081198" vr="SQ"><Item number="1">{values}</Item></DicomAttribute>'
    return f"{head}<NativeDicomModel{namespace}>{sequence}</NativeDicomModel>".encode()


@pytest.mark.parametrize(
    "kind",
    ["application/dicom+json; charset=utf-8", "application/dicom+json;charset=utf-8", "Application/JSON", ""],
)
def test_a_media_type_has_parameters(kind: str, service: Any, outgoing: Any, client_to: Any) -> None:
    with pytest.raises(PeerBusy) as caught:
        client_to(service(202, failed(0xA700), **{"Content-Type": kind})).store(outgoing())
    assert caught.value.status == 0xA700


@pytest.mark.parametrize("kind", ["application/dicom+xml", "text/xml; charset=utf-8", "application/xml", ""])
@pytest.mark.parametrize(
    ("namespace", "head"),
    [("", ""), (' xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM"', '<?xml version="1.0" encoding="UTF-8"?>')],
)
def test_a_store_response_in_xml_is_read(
    kind: str, namespace: str, head: str, service: Any, outgoing: Any, client_to: Any
) -> None:
    body = failed_in_xml(0xC000, namespace=namespace, head=head)
    with pytest.raises(PeerRefused) as caught:
        client_to(service(200, body, **{"Content-Type": kind})).store(outgoing())
    assert caught.value.status == 0xC000


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (200, "text/html", b"<html>log in</html>"),
        (202, "text/html; charset=utf-8", b"<!DOCTYPE html><html></html>"),
        (200, "text/plain", b"stored"),
        (200, "application/xhtml+xml", b"<html/>"),
        (200, "application/xml", b"<html/>"),
        (200, "application/dicom+xml", b"<NativeDicomModel>"),
        (200, "application/dicom+xml", b'<!DOCTYPE x [<!ENTITY a "b">]><NativeDicomModel/>'),
        (200, "", b"<html>log in</html>"),
    ],
)
def test_what_is_no_store_response_is_a_refusal(
    status: int, kind: str, body: bytes, service: Any, outgoing: Any, client_to: Any
) -> None:
    with pytest.raises(AccessRefused, match="log-in page"):
        client_to(service(status, body, **{"Content-Type": kind})).store(outgoing())


def stored_and_found(reason: int | None, *, is_found: bool) -> type[BaseHTTPRequestHandler]:
    """A service that answers 409 to a store, and to a search what it is told."""

    class Answering(BaseHTTPRequestHandler):
        def answer(self, status: int, kind: str, body: bytes) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.answer(409, "application/dicom+json", b"" if reason is None else failed(reason))

        def do_GET(self) -> None:
            uid = {"00080018": {"vr": "UI", "Value": [derive_uid("test", "instance", "0")]}}
            self.answer(200, "application/dicom+json", json.dumps([uid] if is_found else []).encode())

        def log_message(self, *_: Any) -> None:
            pass

    return Answering


@pytest.mark.parametrize("reason", [None, 0x0110, 0xB00E, 0xB00F, 0xC000])
@pytest.mark.parametrize("is_found", [True, False])
def test_a_conflict_is_settled_by_a_search(reason: int | None, is_found: bool, outgoing: Any, client_to: Any) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), stored_and_found(reason, is_found=is_found)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = client_to(f"http://127.0.0.1:{server.server_port}")
        try:
            if is_found:
                assert client.store(outgoing()).sop_instance_uid == outgoing().sop_instance_uid
            else:
                with pytest.raises((PeerBusy, PeerRefused)):
                    client.store(outgoing())
        finally:
            client.close()
            server.shutdown()


@pytest.mark.parametrize(("status", "body"), [(200, b""), (409, failed(0x0111)), (409, failed_in_xml(0x0111))])
def test_answers_that_mean_stored_or_there_already(
    status: int, body: bytes, service: Any, outgoing: Any, client_to: Any
) -> None:
    kind = "application/dicom+xml" if body.startswith(b"<") else "application/dicom+json"
    stored = client_to(service(status, body, **{"Content-Type": kind})).store(outgoing())
    assert stored.sop_instance_uid == outgoing().sop_instance_uid


def test_redirect_is_not_taken_for_success(service: Any, outgoing: Any, client_to: Any) -> None:
    elsewhere = service(200)
    with pytest.raises(AccessRefused):
        client_to(service(302, Location=elsewhere)).store(outgoing())


@pytest.mark.parametrize("status", [404, 501])
def test_service_without_search_can_not_be_asked(status: int, service: Any, outgoing: Any, client_to: Any) -> None:
    assert client_to(service(status)).verify([outgoing()])[0].presence is Presence.UNANSWERABLE


def test_failing_search_is_no_answer(service: Any, outgoing: Any, client_to: Any) -> None:
    assert client_to(service(503)).verify([outgoing()])[0].presence is Presence.UNKNOWN


def test_nobody_there(outgoing: Any, client_to: Any, free_port: Callable[[], int]) -> None:
    client = client_to(f"http://127.0.0.1:{free_port()}/dicom-web")
    with pytest.raises(PeerUnreachable):
        client.store(outgoing())
    with pytest.raises(PeerUnreachable):
        client.verify([outgoing()])


def test_errors_carry_neither_url_nor_password_nor_identifier(
    service: Any, outgoing: Any, client_to: Any, free_port: Callable[[], int]
) -> None:
    import traceback

    for address in (service(401), service(500), f"http://127.0.0.1:{free_port()}/dicom-web"):
        with pytest.raises(DeliveryError) as caught:
            client_to(address, username="somebody", password="h1dden").store(outgoing())
        told = "".join(traceback.format_exception(caught.value, limit=0))
        assert "h1dden" not in told and "127.0.0.1" not in told and outgoing().sop_instance_uid not in told


def test_token_is_sent(outgoing: Any, client_to: Any) -> None:
    seen: list[str | None] = []

    class Seeing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Seeing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client_to(f"http://127.0.0.1:{server.server_port}", token="t0ken").store(outgoing())
        server.shutdown()
    assert seen == ["Bearer t0ken"]


def test_body_is_the_file_s_dataset(outgoing: Any, client_to: Any) -> None:
    bodies: list[bytes] = []

    class Keeping(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Keeping) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client_to(f"http://127.0.0.1:{server.server_port}").store(outgoing())
        server.shutdown()
    content = outgoing().path.read_bytes()
    assert content in bodies[0]
    assert dcmread(BytesIO(content))
