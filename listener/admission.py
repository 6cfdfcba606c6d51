"""Who may open an association, and how many may.

References
----------
DICOM PS3.8 Section 9.3.4 (A-ASSOCIATE-RJ: result, source, reason), PS3.5 Table 6.2-1 (AE titles)
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from config.pynetdicom_overrides import cut
from cxr.dicom.associate_pdu import is_title
from cxr.domain import Peer

_PERMANENT, _TRANSIENT = 1, 2
_BY_USER, _BY_PRESENTATION = 1, 3


class Rejection(Enum):
    """Why an association is refused: our code, and result, source and reason of the A-ASSOCIATE-RJ."""

    APPLICATION_CONTEXT = ("application_context", _PERMANENT, _BY_USER, 2)  # not DICOM's
    CALLING_AE_TITLE = ("calling_ae_title", _PERMANENT, _BY_USER, 3)  # unknown, empty, or from another network
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Where a connection comes from, and the AE titles of its A-ASSOCIATE-RQ; empty: not read."""

    address: str
    calling_ae_title: str = ""
    called_ae_title: str = ""


_PADDING = " \0"
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
            As it calls itself; spaces and NULs at either end are padding.
        address
            Where it calls from: IPv4 or IPv6, an IPv4 address in IPv6 form counts as IPv4.

        Returns
        -------
        Peer or None
            Without entries one that admits every AE title on loopback. None: it may not.
        """
        where = _plain_address(address)
        name = calling_ae_title.strip(_PADDING)
        if not self._allowed:
            return _ANYBODY if where.is_loopback and is_title(name) else None
        here = (peer for peer, network in self._allowed if where in network)
        return next((peer for peer in here if name == peer.ae_title), None)


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

    def screen(self, sender: Sender) -> Rejection | None:
        """Say why an association is refused as far as address, titles and space tell; nothing is counted."""
        found = self._judge(sender)
        return found if isinstance(found, Rejection) else None

    def enter(self, sender: Sender) -> Peer | Rejection:
        """Admit one association, or say why not; `leave` with the peer must follow an admission."""
        peer = self._judge(sender)
        if isinstance(peer, Rejection):
            return peer
        with self._lock:
            refusal = self._over_limit(peer)
            if refusal is None:
                self._open[peer] += 1
        return refusal or peer

    def leave(self, peer: Peer) -> None:
        """Count one association of a peer out."""
        with self._lock:
            self._open[peer] -= 1

    def _judge(self, sender: Sender) -> Peer | Rejection:
        peer = self._peers.find(sender.calling_ae_title, sender.address)
        if peer is None:
            return Rejection.CALLING_AE_TITLE
        if self._called_ae_title not in (None, sender.called_ae_title.strip(_PADDING)):
            return Rejection.CALLED_AE_TITLE
        if self._is_stopping:
            return Rejection.STOPPING
        if self._is_full():
            return Rejection.SPOOL_FULL
        return self._over_limit(peer) or peer

    def _over_limit(self, peer: Peer) -> Rejection | None:
        if self._open.total() >= self._limit:
            return Rejection.TOO_MANY
        if peer.max_associations is not None and self._open[peer] >= peer.max_associations:
            return Rejection.TOO_MANY_OF_PEER
        return None


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
                cut(next(iter(self._connections)))

    def remove(self, connection: socket.socket) -> None:
        """Count a connection out: it asked for an association, or it ended."""
        with self._lock:
            self._connections.pop(connection, None)

    def cut_all(self) -> None:
        """Cut every silent connection."""
        with self._lock:
            for connection in self._connections:
                cut(connection)
