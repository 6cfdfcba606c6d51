"""HTTP adapter that bounds a response in bytes (after decompression) and in time (request to last byte).

requests has a timeout for each read but none for the whole response, and reads a body of any length into memory.
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
"""Longest body that is read; a store response about one object has a few hundred bytes."""

_READ_BYTES = 65536
_ANY_ZLIB_OR_GZIP, _RAW_DEFLATE = 47, -15  # wbits of zlib.decompressobj


class AnswerTooLong(requests.RequestException):
    """The body exceeds `MAX_ANSWER_BYTES`; it may be endless."""


class BoundedAdapter(HTTPAdapter):
    """Sends the requests of one thread at a time and reads each response completely, within its bounds.

    Parameters
    ----------
    limit_s
        Time limit of one request with its response, in seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._current = _CurrentConnection()
        super().__init__(max_retries=0)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 (as requests has them)
        """Create connection pools whose connections can be cut during a request."""
        self.poolmanager = PoolManager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._current)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]  # noqa: ANN401
        """Send a request and read its response.

        Raises
        ------
        AnswerTooLong
            If the body has more than `MAX_ANSWER_BYTES`, before or after decompression.
        requests.ReadTimeout
            If request and response take longer than the limit.
        requests.ConnectionError
            If the connection fails, or the body can't be decompressed.
        """
        self._current.begin()
        timer = threading.Timer(self._limit_s, self._current.cut)
        timer.daemon = True
        timer.start()
        try:
            response = super().send(request, **(options | {"stream": True}))
            try:
                response._content = _decompressed(self._read(response), response.headers.get("Content-Encoding", ""))
            finally:
                response.close()
            response._content_consumed = True
        except (HTTPError, OSError) as error:  # every requests.RequestException is an OSError
            if self._current.is_cut:
                raise requests.ReadTimeout from error
            if isinstance(error, requests.RequestException):
                raise
            raise requests.ConnectionError from error
        finally:
            timer.cancel()
            self._current.end()
        return response

    def _read(self, response: requests.Response) -> bytes:
        """Read the body without decoding; the connection can be reused afterwards."""
        body = bytearray()
        while piece := response.raw.read(_READ_BYTES, decode_content=False):
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise AnswerTooLong
        if self._current.is_cut:  # a body without length, cut by the timer, seems complete
            raise requests.ReadTimeout
        return bytes(body)


class _CurrentConnection:
    """The connection of the request in progress; another thread may cut it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None  # a duplicate: wrapping in TLS detaches the original
        self.is_cut = False

    def begin(self) -> None:
        """Begin a request."""
        self.is_cut = False

    def attach(self, descriptor: int) -> None:
        """Set the connection that the request uses."""
        self.end()
        with self._lock:
            self._socket = socket.socket(fileno=os.dup(descriptor))
            if self.is_cut:
                cut(self._socket)

    def cut(self) -> None:
        """Shut the connection down: the thread that reads or writes sees its end."""
        with self._lock:
            self.is_cut = True
            cut(self._socket)

    def end(self) -> None:
        """Forget the connection, which stays open for the next request."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def _pool_classes(current: _CurrentConnection) -> dict[str, type]:
    """Create pool classes of urllib3 whose connections register themselves as current while in use."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            connection = super()._new_conn()
            current.attach(connection.fileno())
            return connection

        def request(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
            if self.sock is not None:
                current.attach(self.sock.fileno())
            super().request(*arguments, **options)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            connection = super()._new_conn()
            current.attach(connection.fileno())
            return connection

        def request(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
            if self.sock is not None:
                current.attach(self.sock.fileno())
            super().request(*arguments, **options)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _decompressed(body: bytes, encoding: str) -> bytes:
    """Decompress a body up to `MAX_ANSWER_BYTES`, although our requests accept no compression.

    Raises
    ------
    AnswerTooLong
        If it is longer.
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
