"""Which carrier a destination of the settings needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inference.delivery.association import Address, certificates_of
from inference.delivery.dicom_carrier import DicomCarrier
from inference.delivery.dicom_verifier import DicomVerifier
from inference.delivery.folder_carrier import FolderCarrier
from inference.delivery.stow_carrier import StowCarrier

if TYPE_CHECKING:
    from config.settings import DestinationSettings
    from inference.delivery.carrier import Carrier


def make_carrier(destination: DestinationSettings, calling_ae_title: str) -> Carrier:
    """Make what takes reports to one destination; nothing is connected yet.

    Parameters
    ----------
    destination
        Of the settings.
    calling_ae_title
        Ours, where the protocol has one.

    Raises
    ------
    SettingsError
        If its TLS files can't be used.
    """
    if destination.kind == "stow":
        return StowCarrier(destination)
    if destination.kind == "folder":
        return FolderCarrier(Path(destination.address))
    ae_title, host, port = destination.dicom_address()
    address = Address(
        ae_title=ae_title,
        host=host,
        port=port,
        calling_ae_title=calling_ae_title,
        timeout_s=destination.timeout_s,
        tls=certificates_of(destination),
    )
    verifier = DicomVerifier(address, mode=destination.verify, commitment_listen=destination.commitment_address())
    return DicomCarrier(address, verifier=verifier)
