"""Admission of associations: allowed peers, limits, and silent connections.

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
from cxr.dicom.associate_pdu import is_title, without_padding
from cxr.domain import Peer

_PERMANENT, _TRANSIENT = 1, 2
_BY_USER, _BY_PRESENTATION = 1, 3


class Rejection(Enum):
    """Reason for a rejection: our code, and result, source and reason of the A-ASSOCIATE-RJ."""

    APPLICATION_CONTEXT = ("application_context", _PERMANENT, _BY_USER, 2)  # not DICOM's
    CALLING_AE_TITLE = ("calling_ae_title", _PERMANENT, _BY_USER, 3)  # unknown, empty, or from another network
    CALLED_AE_TITLE = ("called_ae_title", _PERMANENT, _BY_USER, 7)
    SPOOL_FULL = ("spool_full", _TRANSIENT, _BY_PRESENTATION, 1)  # temporary congestion
    STOPPING = ("stopping", _TRANSIENT, _BY_PRESENTATION, 1)  # temporary congestion
    TOO_MANY = ("too_many", _TRANSIENT, _BY_PRESENTATION, 2)  # local limit exceeded
    TOO_MANY_OF_PEER = ("too_many_of_peer", _TRANSIENT, _BY_PRESENTATION, 2)  # local limit exceeded

    @property
    def code(self) -> str:
        """Our code of the reason, for logs, metrics and documentation."""
        return self.value[0]

    @property
    def answer(self) -> tuple[int, int, int]:
        """Result, source and reason/diagnostic of the A-ASSOCIATE-RJ."""
        return self.value[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requestor:
    """Address of a connection, and the AE titles of its A-ASSOCIATE-RQ; empty: not read."""

    address: str
    calling_ae_title: str = ""
    called_ae_title: str = ""


_ANY_LOOPBACK_PEER = Peer(ae_title="", network="127.0.0.0/8")


class Peers:
    """Allowed peers: calling AE titles, each from its network; without any, every AE title on loopback.

    Parameters
    ----------
    peers
        The allow list.
    """

    def __init__(self, peers: Iterable[Peer]) -> None:
        self._allowed = [(peer, ipaddress.ip_network(peer.network)) for peer in peers]

    def find(self, calling_ae_title: str, address: str) -> Peer | None:
        """Find the first entry that allows this peer to open an association.

        Parameters
        ----------
        calling_ae_title
            Calling AE title as received, with its padding.
        address
            IPv4 or IPv6 address of the peer; an IPv4-mapped IPv6 address counts as IPv4.

        Returns
        -------
        Peer or None
            The entry; without any entries, one that admits every AE title on loopback. None: not allowed.
        """
        peer_address = _normalised_address(address)
        ae_title = without_padding(calling_ae_title)
        if not self._allowed:
            return _ANY_LOOPBACK_PEER if peer_address.is_loopback and is_title(ae_title) else None
        in_network = (peer for peer, network in self._allowed if peer_address in network)
        return next((peer for peer in in_network if ae_title == peer.ae_title), None)


def _normalised_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    parsed = ipaddress.ip_address(address.partition("%")[0])  # without the zone of an IPv6 address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


class Admission:
    """Admits and counts associations after their A-ASSOCIATE-RQ; silent connections are not counted.

    Parameters
    ----------
    peers
        Allowed peers.
    called_ae_title
        Required called AE title; None: any.
    limit
        Largest number of associations at the same time.
    is_full
        Returns whether the spool has too little free space.
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
        """Number of associations that were admitted and have not ended."""
        return self._open.total()

    def stop(self) -> None:
        """Reject all further associations."""
        self._is_stopping = True

    def screen(self, requestor: Requestor) -> Rejection | None:
        """Return the reason for a rejection by address, AE titles, space or limits; None: none. Nothing is counted."""
        decision = self._decide(requestor)
        return decision if isinstance(decision, Rejection) else None

    def admit(self, requestor: Requestor) -> Peer | Rejection:
        """Admit one association, or return the reason for its rejection; after an admission call `leave` at its end."""
        peer = self._decide(requestor)
        if isinstance(peer, Rejection):
            return peer
        with self._lock:
            rejection = self._limit_rejection(peer)
            if rejection is None:
                self._open[peer] += 1
        return rejection or peer

    def leave(self, peer: Peer) -> None:
        """Count one association of a peer as ended."""
        with self._lock:
            self._open[peer] -= 1

    def _decide(self, requestor: Requestor) -> Peer | Rejection:
        peer = self._peers.find(requestor.calling_ae_title, requestor.address)
        if peer is None:
            return Rejection.CALLING_AE_TITLE
        if self._called_ae_title not in (None, without_padding(requestor.called_ae_title)):
            return Rejection.CALLED_AE_TITLE
        if self._is_stopping:
            return Rejection.STOPPING
        if self._is_full():
            return Rejection.SPOOL_FULL
        return self._limit_rejection(peer) or peer

    def _limit_rejection(self, peer: Peer) -> Rejection | None:
        if self._open.total() >= self._limit:
            return Rejection.TOO_MANY
        if peer.max_associations is not None and self._open[peer] >= peer.max_associations:
            return Rejection.TOO_MANY_OF_PEER
        return None


class SilentConnections:
    """Connections without an association: before the A-ASSOCIATE-RQ, or after our rejection, release or abort.

    They don't count as associations. When there are too many, the oldest is cut, so that a peer that opens
    connections and stays silent can't keep others out.

    Parameters
    ----------
    limit
        Largest number of silent connections.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, None] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, connection: socket.socket) -> None:
        """Add a connection, and cut the oldest if there are more than the limit."""
        with self._lock:
            self._connections[connection] = None
            if len(self._connections) > self._limit:
                cut(next(iter(self._connections)))

    def remove(self, connection: socket.socket) -> None:
        """Remove a connection that requested an association or has ended."""
        with self._lock:
            self._connections.pop(connection, None)

    def cut_all(self) -> None:
        """Cut every silent connection."""
        with self._lock:
            for connection in self._connections:
                cut(connection)
