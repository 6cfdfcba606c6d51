"""What the transport asks of the service above it, and what it hands over."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from pynetdicom.presentation import PresentationContext

from cxr.domain import Peer
from listener.admission import Rejection, Sender
from listener.commitment_scp import Commitments
from listener.dimse_messages import Command
from listener.reception import Reception
from listener.statuses import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a peer may be silent, each in seconds."""

    handshake_s: float  # over the TLS handshake
    acse_s: float  # before its A-ASSOCIATE-RQ is complete
    dimse_s: float  # within a message
    message_s: float  # over one whole message
    idle_s: float  # between messages


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRequest:
    """A complete C-STORE request."""

    command: Command
    abstract_syntax_uid: str  # of the presentation context that it came under
    transfer_syntax_uid: str
    calling_ae_title: str
    reception: Reception


class Service(Protocol):
    """What decides about associations and takes objects in; many threads call it at once."""

    def screen(self, sender: Sender) -> Rejection | None:
        """Say why this sender may not open an association now; nothing is counted."""

    def enter(self, sender: Sender) -> Peer | Rejection:
        """Admit an association of a peer, or say why not."""

    def leave(self, peer: Peer) -> None:
        """Count an admitted association out."""

    def supported_contexts(self, proposed: Sequence[PresentationContext]) -> list[PresentationContext]:
        """List what is supported of a proposal; the list's contexts are shared and stay as they are."""

    def receive(self, command: Command, transfer_syntax_uid: str, peer: Peer) -> Reception:
        """Open what a C-STORE's data set goes into; a fault is kept there, not raised."""

    def store(self, request: StoreRequest) -> Status:
        """Take in a complete object; what goes wrong becomes a status."""

    @property
    def commitments(self) -> Commitments:
        """What answers Storage Commitment."""

    @property
    def transfer_syntaxes(self) -> Collection[str]:
        """UIDs of the transfer syntaxes that may be accepted in any context."""

    def refused(self, reason: str, sender: Sender) -> None:
        """Count a connection or an association that was refused."""

    def not_understood(self, sender: Sender, error: Exception) -> None:
        """Log that a PDU of this sender can't be read."""
