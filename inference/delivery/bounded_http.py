"""HTTP answers with a bound: in bytes, after decompression, and in time, from the request to the last byte.

requests has a timeout for each read, none for the whole answer, and reads a body of any length into memory.
"""

from __future__ import annotations

import os
import socket
import threading
import zlib
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from config.pynetdicom_overrides import cut

MAX_ANSWER_BYTES = 1024 * 1024
"""Longest answer that is read; a store response about one object has a few hundred bytes."""

_READ_BYTES = 65536
_ANY_ZLIB_OR_GZIP, _RAW_DEFLATE = 47, -15  # wbits of zlib.decompressobj


class AnswerTooLong(requests.RequestException):
    """The body has more bytes than any answer to our requests; it may have no end."""


class BoundedAdapter(HTTPAdapter):
    """Sends requests of one thread at a time, and reads each answer whole, within its bounds.

    Parameters
    ----------
    limit_s
        How long one request and its answer may take, in seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._line = _Line()
        super().__init__(max_retries=0)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 (as requests has them)
        """Make the pools of connections that the line can end."""
        self.poolmanager = PoolManager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._line)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]  # noqa: ANN401
        """Send a request and read its answer.

        Raises
        ------
        AnswerTooLong
            If the body has more than `MAX_ANSWER_BYTES`, before or after decompression.
        requests.ReadTimeout
            If the whole takes longer than the limit.
        requests.ConnectionError
            If the connection fails, or the body can't be decompressed.
        """
        self._line.begin()
        watch = threading.Timer(self._limit_s, self._line.cut)
        watch.daemon = True
        watch.start()
        try:
            response = super().send(request, **(options | {"stream": True}))
            try:
                response._content = _decompressed(self._read(response), response.headers.get("Content-Encoding", ""))
            finally:
                response.close()
            response._content_consumed = True
        except (HTTPError, OSError) as error:  # every requests.RequestException is an OSError
            if self._line.is_cut:
                raise requests.ReadTimeout from error
            if isinstance(error, requests.RequestException):
                raise
            raise requests.ConnectionError from error
        finally:
            watch.cancel()
            self._line.end()
        return response

    def _read(self, response: requests.Response) -> bytes:
        """Read the body as it came; the connection can be used again after it."""
        body = bytearray()
        while piece := response.raw.read(_READ_BYTES, decode_content=False):
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise AnswerTooLong
        if self._line.is_cut:  # a body that ends with its connection seems complete
            raise requests.ReadTimeout
        return bytes(body)


class _Line:
    """The connection of the request in progress; another thread may cut it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None  # a descriptor of its own: TLS takes the other away
        self.is_cut = False

    def begin(self) -> None:
        """Begin a request."""
        self.is_cut = False

    def attach(self, descriptor: int) -> None:
        """Take the connection that the request uses."""
        self.end()
        with self._lock:
            self._socket = socket.socket(fileno=os.dup(descriptor))
            if self.is_cut:
                cut(self._socket)

    def cut(self) -> None:
        """End the connection: the thread that reads from it, or writes to it, sees its end."""
        with self._lock:
            self.is_cut = True
            cut(self._socket)

    def end(self) -> None:
        """Let go of the connection, which stays open for the next request."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def _pool_classes(line: _Line) -> dict[str, type]:
    """Make urllib3's pools, whose connections attach themselves to the line while they are used."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            line.attach(made.fileno())
            return made

        def request(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
            if self.sock is not None:
                line.attach(self.sock.fileno())
            super().request(*arguments, **options)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            line.attach(made.fileno())
            return made

        def request(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
            if self.sock is not None:
                line.attach(self.sock.fileno())
            super().request(*arguments, **options)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _decompressed(body: bytes, encoding: str) -> bytes:
    """Decompress a body, which no request of ours asked for, no further than its bound.

    Raises
    ------
    AnswerTooLong
        If it swells beyond.
    requests.ConnectionError
        If it can't be decompressed.
    """
    if not body or encoding.strip().lower() in ("", "identity"):
        return body
    for window_bits in (_ANY_ZLIB_OR_GZIP, _RAW_DEFLATE):
        try:
            whole = zlib.decompressobj(window_bits).decompress(body, MAX_ANSWER_BYTES + 1)
        except zlib.error:
            continue
        if len(whole) > MAX_ANSWER_BYTES:
            raise AnswerTooLong
        return whole
    raise requests.ConnectionError
