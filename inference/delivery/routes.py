"""Which destinations a result goes to, and which it never goes back to."""

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
    """Choose the destinations of one result by who sent its image.

    A destination with ``from_peers`` takes results of images from these peers and no other. A
    destination without takes the results of all images, except those that itself sent: a result goes
    back to its sender only where the destination is bound to that peer.

    Parameters
    ----------
    peer_ae_title
        Calling AE title of the peer that sent the image; None: it is not known.
    destinations
        All of the settings.
    senders
        Of an image that this peer sent again: all that ever sent it, which are senders too.

    Returns
    -------
    tuple[DestinationSettings, ...]
        In the order of the settings.
    """
    everyone = {peer_ae_title, *senders}
    return tuple(destination for destination in destinations if _takes(destination, peer_ae_title, everyone))


def results_for(
    peer_ae_title: str | None,
    destinations: Sequence[DestinationSettings],
    *,
    status: PackageStatus,
    deliver_untrained: bool,
    senders: Collection[str] = (),
) -> tuple[str, ...]:
    """Name the destinations of one result, also by what scored it.

    Parameters
    ----------
    peer_ae_title, destinations, senders
        As for `destinations_for`.
    status
        Of the package.
    deliver_untrained
        The setting ``report.deliver_untrained``: without it an untrained network's results stay here.
    """
    if status is PackageStatus.UNTRAINED and not deliver_untrained:
        return ()
    chosen = destinations_for(peer_ae_title, destinations, senders=senders)
    return tuple(destination.name for destination in chosen)


def _takes(destination: DestinationSettings, peer_ae_title: str | None, senders: Set[str | None]) -> bool:
    if destination.from_peers:
        return peer_ae_title in destination.from_peers
    own = _ae_title(destination)
    return own is None or own not in senders


def _ae_title(destination: DestinationSettings) -> str | None:
    """Called AE title; a URL and a folder have none, so that whoever names one has decided."""
    return destination.dicom_address()[0] if destination.kind == "dicom" else None
