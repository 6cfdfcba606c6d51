"""DICOMweb services whose answers have no end, in bytes or in time: each call ends, and memory has a bound."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from inference.delivery.bounded_http import MAX_ANSWER_BYTES, AnswerTooLong, BoundedAdapter

OK = b"HTTP/1.1 200 OK\r\n"


class Answering:
    """A service that answers each request with pieces, and then with `rest` again and again, each after a wait."""

    def __init__(
        self, *pieces: bytes, rest: bytes = b"", every_s: float = 0.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._pieces, self._rest, self._every_s, self._tls = pieces, rest, every_s, tls
        self._server = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self.connections = 0
        self.sent = 0
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def end(self) -> None:
        self._ended.set()
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection = self._server.accept()[0]
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with suppress(OSError), self._tls.wrap_socket(plain, server_side=True) if self._tls else plain as connection:
            while connection.recv(65536):
                for piece in self._pieces:
                    self._send(connection, piece)
                while self._rest and not self._ended.wait(self._every_s):
                    self._send(connection, self._rest)

    def _send(self, connection: socket.socket, piece: bytes) -> None:
        connection.sendall(piece)
        self.sent += len(piece)


@pytest.fixture
def answering() -> Iterator[Callable[..., Answering]]:
    made: list[Answering] = []

    def start(*pieces: bytes, **options: object) -> Answering:
        made.append(Answering(*pieces, **options))
        return made[-1]

    yield start
    for one in made:
        one.end()


def bounded(limit_s: float, verify: Path | bool = True) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.verify = str(verify) if isinstance(verify, Path) else verify
    for scheme in ("http://", "https://"):
        session.mount(scheme, BoundedAdapter(limit_s))
    return session


def test_an_answer_is_read_and_the_connection_used_again(answering: Callable[..., Answering]) -> None:
    service = answering(OK + b"Content-Length: 5\r\n\r\nhello")
    with bounded(60.0) as session:
        for _ in range(3):
            assert session.get(f"http://127.0.0.1:{service.port}/").content == b"hello"
    assert service.connections == 1


@pytest.mark.parametrize("head", [b"\r\n", b"Content-Length: 99999999999\r\n\r\n"])
def test_a_body_without_an_end_is_cut(answering: Callable[..., Answering], head: bytes) -> None:
    service = answering(OK + head, rest=b"x" * 65536)
    with bounded(300.0) as session, pytest.raises(AnswerTooLong):
        session.get(f"http://127.0.0.1:{service.port}/")
    assert service.sent < 32 * MAX_ANSWER_BYTES, "what fits into the buffers of two kernels"


def test_a_chunked_body_without_an_end_is_cut(answering: Callable[..., Answering]) -> None:
    service = answering(OK + b"Transfer-Encoding: chunked\r\n\r\n", rest=b"10000\r\n" + b"x" * 65536 + b"\r\n")
    with bounded(300.0) as session, pytest.raises(AnswerTooLong):
        session.get(f"http://127.0.0.1:{service.port}/")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "x-gzip"])
def test_a_body_that_swells_is_refused(answering: Callable[..., Answering], encoding: str) -> None:
    whole = bytes(64 * MAX_ANSWER_BYTES)
    body = zlib.compress(whole) if encoding == "deflate" else gzip.compress(whole)
    assert len(body) < MAX_ANSWER_BYTES
    head = f"Content-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    service = answering(OK + head + body)
    with bounded(300.0) as session, pytest.raises(AnswerTooLong):
        session.get(f"http://127.0.0.1:{service.port}/")


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"hello", mtime=0)),
        ("GZIP", gzip.compress(b"hello", mtime=0)),
        ("deflate", zlib.compress(b"hello")),
        ("deflate", zlib.compress(b"hello")[2:-4]),
        ("identity", b"hello"),
    ],
)
def test_a_compressed_body_is_read(answering: Callable[..., Answering], encoding: str, body: bytes) -> None:
    head = f"Content-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    service = answering(OK + head + body)
    with bounded(60.0) as session:
        assert session.get(f"http://127.0.0.1:{service.port}/").content == b"hello"


def test_a_body_that_is_not_compressed_as_it_says_is_no_answer(answering: Callable[..., Answering]) -> None:
    service = answering(OK + b"Content-Encoding: br\r\nContent-Length: 5\r\n\r\nhello")
    with bounded(60.0) as session, pytest.raises(requests.ConnectionError):
        session.get(f"http://127.0.0.1:{service.port}/")


@pytest.mark.parametrize(
    ("begin", "rest"),
    [
        (b"", b"H"),
        (OK, b"X-More: 1\r\n"),
        (OK + b"Content-Length: 100000\r\n\r\n", b"x"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (OK + b"\r\n", b"x"),
        (OK + b"Connection: close\r\n\r\n", b"x"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 100000\r\n\r\n", b"x"),
    ],
)
def test_an_answer_that_trickles_is_cut(answering: Callable[..., Answering], begin: bytes, rest: bytes) -> None:
    """Without a bound on the whole, each byte would extend it; pytest's own limit fails the test then."""
    service = answering(begin, rest=rest, every_s=0.2)
    with bounded(1.0) as session, pytest.raises(requests.ReadTimeout):
        session.get(f"http://127.0.0.1:{service.port}/", timeout=30.0)


def test_an_answer_over_tls_that_trickles_is_cut(
    answering: Callable[..., Answering], make_certificates: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    service = answering(OK + b"Content-Length: 100000\r\n\r\n", rest=b"x", every_s=0.2, tls=context)
    with bounded(2.0, verify=folder / "ca.pem") as session, pytest.raises(requests.ReadTimeout):
        session.get(f"https://localhost:{service.port}/", timeout=30.0)


def test_a_service_that_reads_no_more_is_cut() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        bounded(1.0) as session,
        pytest.raises((requests.ReadTimeout, requests.ConnectionError)),
    ):
        session.post(f"http://127.0.0.1:{server.getsockname()[1]}/", data=bytes(64 * 1024 * 1024), timeout=30.0)


def test_a_session_that_was_cut_can_be_used_again(answering: Callable[..., Answering]) -> None:
    slow = answering(OK + b"\r\n", rest=b"x", every_s=0.2)
    good = answering(OK + b"Content-Length: 5\r\n\r\nhello")
    with bounded(1.0) as session:
        with pytest.raises(requests.ReadTimeout):
            session.get(f"http://127.0.0.1:{slow.port}/")
        assert session.get(f"http://127.0.0.1:{good.port}/").content == b"hello"
