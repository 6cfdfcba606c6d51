"""Time limits for peers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time limits for a peer, each in seconds."""

    handshake_s: float  # for the TLS handshake
    acse_s: float  # until its A-ASSOCIATE-RQ is complete; also the ARTIM timer
    dimse_s: float  # silence within a message
    message_s: float  # for one whole message
    idle_s: float  # silence between messages
