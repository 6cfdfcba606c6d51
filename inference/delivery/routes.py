"""Routing of results to destinations, by the sender of the image and the status of the package."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from typing import TYPE_CHECKING

from cxr.domain import PackageStatus

if TYPE_CHECKING:
    from config.settings import DestinationSettings


def destinations_for(
    peer_ae_title: str | None,
    destinations: Sequence[DestinationSettings],
    *,
    senders: Collection[str] = (),
) -> tuple[DestinationSettings, ...]:
    """Choose the destinations of one result by the sender of its image.

    A destination with ``from_peers`` receives the results of images from these peers only. A destination
    without it receives the results of all images but those that it sent itself: a result returns to its
    sender only where ``from_peers`` names that peer.

    Parameters
    ----------
    peer_ae_title
        Calling AE title of the peer that sent the image; None: unknown.
    destinations
        All entries of the settings.
    senders
        For an image that was sent again: AE titles of all peers that sent it.

    Returns
    -------
    tuple[DestinationSettings, ...]
        In the order of the settings.
    """
    all_senders = {peer_ae_title, *senders}
    return tuple(destination for destination in destinations if _receives(destination, peer_ae_title, all_senders))


def results_for(
    peer_ae_title: str | None,
    destinations: Sequence[DestinationSettings],
    *,
    status: PackageStatus,
    deliver_untrained: bool,
    senders: Collection[str] = (),
) -> tuple[str, ...]:
    """Return the names of the destinations of one result; none for an untrained network unless allowed.

    Parameters
    ----------
    peer_ae_title, destinations, senders
        As for `destinations_for`.
    status
        Status of the package that scored the image.
    deliver_untrained
        The setting ``report.deliver_untrained``: without it the results of an untrained network are not sent.
    """
    if status is PackageStatus.UNTRAINED and not deliver_untrained:
        return ()
    chosen = destinations_for(peer_ae_title, destinations, senders=senders)
    return tuple(destination.name for destination in chosen)


def _receives(destination: DestinationSettings, peer_ae_title: str | None, senders: Set[str | None]) -> bool:
    if destination.from_peers:
        return peer_ae_title in destination.from_peers
    own = _ae_title(destination)
    return own is None or own not in senders


def _ae_title(destination: DestinationSettings) -> str | None:
    """Return the called AE title; None for URL and folder, which are never the sender of an image."""
    return destination.dicom_address()[0] if destination.kind == "dicom" else None
