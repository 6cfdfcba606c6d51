"""Who may open an association, and how many may.

References
----------
DICOM PS3.8 Section 9.3.4 (A-ASSOCIATE-RJ: result, source, reason)
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum

from cxr.domain import Peer

_PERMANENT, _TRANSIENT = 1, 2
_BY_USER, _BY_PRESENTATION = 1, 3


class Rejection(Enum):
    """Why an association is refused: our code, and result, source and reason of the A-ASSOCIATE-RJ."""

    CALLING_AE_TITLE = ("calling_ae_title", _PERMANENT, _BY_USER, 3)  # unknown, or from another network
    CALLED_AE_TITLE = ("called_ae_title", _PERMANENT, _BY_USER, 7)
    SPOOL_FULL = ("spool_full", _TRANSIENT, _BY_PRESENTATION, 1)  # temporary congestion
    STOPPING = ("stopping", _TRANSIENT, _BY_PRESENTATION, 1)  # temporary congestion
    TOO_MANY = ("too_many", _TRANSIENT, _BY_PRESENTATION, 2)  # local limit exceeded
    TOO_MANY_OF_PEER = ("too_many_of_peer", _TRANSIENT, _BY_PRESENTATION, 2)  # local limit exceeded

    @property
    def code(self) -> str:
        """Our name of the reason, for metrics and documentation."""
        return self.value[0]

    @property
    def answer(self) -> tuple[int, int, int]:
        """Result, source and reason/diagnostic of the A-ASSOCIATE-RJ."""
        return self.value[1:]


_ANYBODY = Peer(ae_title="", network="127.0.0.0/8")


class Peers:
    """Who may send: calling AE titles, each from its network; if there are none, anyone on loopback.

    Parameters
    ----------
    peers
        The allow list.
    """

    def __init__(self, peers: Iterable[Peer]) -> None:
        self._allowed = [(peer, ipaddress.ip_network(peer.network)) for peer in peers]

    def find(self, calling_ae_title: str, address: str) -> Peer | None:
        """Find the first entry that lets this peer open an association.

        Parameters
        ----------
        calling_ae_title
            As it calls itself; leading and trailing spaces don't count.
        address
            Where it calls from: IPv4 or IPv6, an IPv4 address in IPv6 form counts as IPv4.

        Returns
        -------
        Peer or None
            Without entries one that lets in everybody on loopback. None: it may not.
        """
        where = _plain_address(address)
        if not self._allowed:
            return _ANYBODY if where.is_loopback else None
        name = calling_ae_title.strip()
        return next((peer for peer, network in self._allowed if name == peer.ae_title and where in network), None)


def _plain_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    where = ipaddress.ip_address(address.partition("%")[0])
    mapped = where.ipv4_mapped if isinstance(where, ipaddress.IPv6Address) else None
    return mapped or where


class Admission:
    """Admits associations when their A-ASSOCIATE-RQ has come; a silent connection is not counted.

    Parameters
    ----------
    peers
        Who may send.
    called_ae_title
        What they must call us; None: anything.
    limit
        Associations at the same time.
    is_full
        Whether the spool has too little space.
    """

    def __init__(self, peers: Peers, called_ae_title: str | None, limit: int, is_full: Callable[[], bool]) -> None:
        self._peers = peers
        self._called_ae_title = called_ae_title
        self._limit = limit
        self._is_full = is_full
        self._lock = threading.Lock()
        self._open: Counter[Peer] = Counter()
        self._is_stopping = False

    @property
    def open(self) -> int:
        """Associations that were admitted and have not ended."""
        return self._open.total()

    def stop(self) -> None:
        """Admit none from now on."""
        self._is_stopping = True

    def enter(self, calling_ae_title: str, called_ae_title: str, address: str) -> Peer | Rejection:
        """Admit one association, or say why not; `leave` with the peer must follow an admission.

        Parameters
        ----------
        calling_ae_title, called_ae_title
            Of the A-ASSOCIATE-RQ.
        address
            Where it came from.
        """
        peer = self._peers.find(calling_ae_title, address)
        if peer is None:
            return Rejection.CALLING_AE_TITLE
        if self._called_ae_title not in (None, called_ae_title.strip()):
            return Rejection.CALLED_AE_TITLE
        if self._is_stopping:
            return Rejection.STOPPING
        if self._is_full():
            return Rejection.SPOOL_FULL
        with self._lock:
            if self._open.total() >= self._limit:
                return Rejection.TOO_MANY
            if peer.max_associations is not None and self._open[peer] >= peer.max_associations:
                return Rejection.TOO_MANY_OF_PEER
            self._open[peer] += 1
        return peer

    def leave(self, peer: Peer) -> None:
        """Count one association of a peer out."""
        with self._lock:
            self._open[peer] -= 1


class SilentConnections:
    """Connections that have not asked for an association yet.

    They count for nothing but here. When there are too many, the oldest is cut: whoever opens
    connections and says nothing can't keep others out.

    Parameters
    ----------
    limit
        How many may be silent at the same time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, None] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, connection: socket.socket) -> None:
        """Count a new connection in, and cut the oldest where that is one too many."""
        with self._lock:
            self._connections[connection] = None
            if len(self._connections) > self._limit:
                _cut(next(iter(self._connections)))

    def remove(self, connection: socket.socket) -> None:
        """Count a connection out: it asked for an association, or it ended."""
        with self._lock:
            self._connections.pop(connection, None)

    def cut_all(self) -> None:
        """Cut every silent connection."""
        with self._lock:
            for connection in self._connections:
                _cut(connection)


def _cut(connection: socket.socket) -> None:
    """End a connection that another thread reads from: that thread sees its end, and closes it."""
    with suppress(OSError):
        # Of the socket itself: a TLS socket's own shutdown would drop its TLS state under the reader.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
