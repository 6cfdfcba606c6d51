"""Advice about valid settings with effects that an operator may not expect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.settings import DestinationSettings, Settings


def unbound_destinations(settings: Settings) -> tuple[DestinationSettings, ...]:
    """Return the dicom destinations that may also send to us and receive no result of their own images.

    Parameters
    ----------
    settings
        All settings. Without ``[[peers]]`` every AE title on loopback may send.

    Returns
    -------
    tuple[DestinationSettings, ...]
        Destinations without ``from_peers``, in the order of the settings.
    """
    senders = {peer.ae_title for peer in settings.peers}
    return tuple(
        destination
        for destination in settings.destinations
        if destination.kind == "dicom"
        and not destination.from_peers
        and (not senders or destination.dicom_address()[0] in senders)
    )


def advice(settings: Settings) -> Iterator[str]:
    """Return advice on settings with unexpected effects, one or two sentences each.

    Parameters
    ----------
    settings
        All settings, without faults.
    """
    for destination in unbound_destinations(settings):
        ae_title = destination.dicom_address()[0]
        warning = " It is the only destination, so those images get no report at all." if _is_alone(settings) else ""
        yield (
            f"Destination {destination.name} has no from_peers: it gets no results of images that {ae_title} itself "
            f'sends here.{warning} If it should get them, set from_peers = ["{ae_title}"].'
        )


def _is_alone(settings: Settings) -> bool:
    return len(settings.destinations) == 1
